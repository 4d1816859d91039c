//! What a host knows us by: put on each call, and fetched anew where a token is not taken any more. Never prints any of it.

use super::call::{Host, explained, read};
use super::{Auth, Login};
use crate::expression::{ExpressionLimits, Jq, Subject};
use bulkhead_core::fault::Fault;
use bulkhead_core::record::{Header, Record};
use reqwest::{Client, RequestBuilder};
use serde_json::json;
use std::time::Duration;
use tokio::sync::Mutex;

/// Credentials of one worker, and the token that they brought.
pub(super) struct Credentials {
    auth: Option<Auth>,
    /// Held while a token is fetched, so that calls under way at once fetch one.
    token: Mutex<Token>,
}

#[derive(Default)]
struct Token {
    text: Option<String>,
    /// How many were fetched.
    number: u64,
}

/// What a call was made with.
#[derive(Clone)]
pub(super) struct Pass {
    token: Option<String>,
    number: u64,
}

impl Credentials {
    pub(super) fn new(auth: Option<Auth>) -> Self {
        Self { auth, token: Mutex::default() }
    }

    /// What the next call is to be made with. `refused` is what a host did not take: its token is not given again.
    ///
    /// # Errors
    /// Transient: no token could be fetched.
    pub(super) async fn pass(
        &self,
        client: &Client,
        limits: (Duration, usize),
        refused: Option<&Pass>,
    ) -> Result<Pass, Fault> {
        let Some(Auth::Login(login)) = &self.auth else { return Ok(Pass { token: None, number: 0 }) };
        let mut token = self.token.lock().await;
        if token.text.is_none() || refused.is_some_and(|refused| refused.number == token.number) {
            token.text = None;
            token.text = Some(fetch(client, login, limits).await?);
            token.number += 1;
        }
        Ok(Pass { token: token.text.clone(), number: token.number })
    }

    /// Whether a call that was answered with this status is worth making again with another token.
    pub(super) fn renews_on(&self, status: u16) -> bool {
        matches!(&self.auth, Some(Auth::Login(login)) if login.renew_on.contains(&status))
    }

    /// The call, with them.
    pub(super) fn on(&self, call: RequestBuilder, pass: &Pass) -> RequestBuilder {
        match (&self.auth, &pass.token) {
            (_, Some(token)) => call.bearer_auth(token),
            (Some(Auth::Basic(basic)), _) => call.basic_auth(&basic.username, Some(basic.password.expose())),
            (Some(Auth::Bearer(bearer)), _) => call.bearer_auth(bearer.token.expose()),
            (None | Some(Auth::Login(_)), None) => call,
        }
    }
}

/// Fetches a token.
async fn fetch(client: &Client, login: &Login, (timeout, bytes_max): (Duration, usize)) -> Result<String, Fault> {
    let failed = |why: String| Fault::transient("http_login", format!("no token from {}: {why}", Host::of(&login.url)));
    let body = json!({ "username": login.username, "password": login.password.expose() });
    let call = client.post(&login.url).json(&body).timeout(timeout).send();
    let answer = call.await.map_err(|why| failed(explained(&why)))?;
    let status = answer.status();
    let body = read(answer, bytes_max).await.map_err(|why| failed(why.message))?;
    if !status.is_success() {
        return Err(failed(format!("it answered {}", status.as_u16())));
    }
    token_in(&body, &login.token).map_err(failed)
}

/// The token that an answer holds. What is said where it holds none quotes nothing of it.
fn token_in(body: &[u8], place: &Jq) -> Result<String, String> {
    let headers = vec![Header::new("content-type", "application/json")];
    let answer = Record { value: Some(body.to_vec().into()), headers, ..Record::default() };
    let missing = || format!("its answer has no token at `{place}`");
    let text = Subject::new(&answer, None)
        .and_then(|subject| place.text_of(&subject, ExpressionLimits::default()))
        .map_err(|_| missing())?;
    text.filter(|token| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic())).ok_or_else(missing)
}
