//! An OpenAI-compatible API: one question, its answer, streamed or whole. Never waits for a silent one longer than it may, never
//! reads more than it may, and never shows the key.

use super::GenerateConfig;
use bulkhead_core::fault::Fault;
use bulkhead_core::sse::Events;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// How much of a refusal is told.
const REFUSAL_BYTES_MAX: usize = 500;
/// What JSON adds to an answer's text at worst, in an event or in the whole document.
const ENVELOPE: usize = 64 * 1024;
const ESCAPED: usize = 6;
/// What ends a stream.
const DONE: &[u8] = b"[DONE]";

/// What the model said.
pub(super) struct Reply {
    pub(super) text: String,
    /// It was cut off at the number of tokens that it may have.
    pub(super) truncated: bool,
}

/// See the module.
pub(super) struct Api {
    client: Client,
    url: Url,
    request: Value,
    idle: Duration,
    answer_bytes_max: usize,
    stream: bool,
}

/// Where completions are asked for.
pub(super) fn url(endpoint: &str) -> Result<Url, String> {
    let example = "is no URL of an API, e.g. \"http://127.0.0.1:11434/v1\"";
    let url = Url::parse(&format!("{}/chat/completions", endpoint.trim_end_matches('/')));
    url.ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host()).ok_or_else(|| example.to_owned())
}

impl Api {
    /// `dir` is where its files' paths start.
    pub(super) fn new(config: &GenerateConfig, dir: &Path) -> Result<Self, Fault> {
        let mut headers = HeaderMap::new();
        if let Some(key) = config.api_key.as_ref().map(|key| key.expose()).filter(|key| !key.is_empty()) {
            let key = HeaderValue::from_str(&format!("Bearer {key}"));
            let mut key =
                key.map_err(|_| Fault::fatal("generate_unusable", "api_key: has characters that HTTP does not take"))?;
            key.set_sensitive(true);
            headers.insert(AUTHORIZATION, key);
        }
        let client = Client::builder()
            .default_headers(headers)
            .connect_timeout(config.idle_timeout.0)
            .redirect(reqwest::redirect::Policy::none());
        let client = match &config.tls {
            Some(tls) => tls.trusting(dir, client).map_err(|why| Fault::fatal("generate_unusable", why))?,
            None => client,
        };
        let client = client.build().map_err(|why| Fault::fatal("generate_unusable", why.without_url()))?;
        let request = json!({
            "model": config.model,
            "stream": config.stream,
            "max_tokens": config.tokens_max,
            "temperature": config.temperature,
        });
        Ok(Self {
            client,
            url: url(&config.endpoint).map_err(|why| Fault::fatal("generate_unusable", why))?,
            request,
            idle: config.idle_timeout.0,
            answer_bytes_max: config.answer_max.bytes(),
            stream: config.stream,
        })
    }

    /// Asks; `said` is told the words as they come, where they do.
    pub(super) async fn complete(&self, messages: &Value, said: impl FnMut(&str)) -> Result<Reply, Fault> {
        let mut request = self.request.clone();
        request["messages"] = messages.clone();
        let kind = if self.stream { "text/event-stream" } else { "application/json" };
        let sent = self.client.post(self.url.clone()).header(ACCEPT, kind).json(&request).send();
        let response = self.in_time(sent).await?.map_err(away)?;
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        let reply = if self.stream { self.streamed(response, said).await? } else { self.whole(response).await? };
        if reply.text.trim().is_empty() {
            return Err(garbled("the answer is empty"));
        }
        Ok(reply)
    }

    async fn in_time<T>(&self, what: impl Future<Output = T>) -> Result<T, Fault> {
        let silent = |_| Fault::transient("generate_slow", format_args!("the API was silent for {:?}", self.idle));
        tokio::time::timeout(self.idle, what).await.map_err(silent)
    }

    async fn next(&self, response: &mut Response) -> Result<Option<bytes::Bytes>, Fault> {
        self.in_time(response.chunk()).await?.map_err(away)
    }

    async fn streamed(&self, mut response: Response, mut said: impl FnMut(&str)) -> Result<Reply, Fault> {
        let mut events = Events::new(self.bytes_max());
        let mut reply = Reply { text: String::new(), truncated: false };
        let mut is_finished = false;
        while let Some(bytes) = self.next(&mut response).await? {
            let mut words = String::new();
            let mut is_done = false;
            for event in events.take(&bytes).map_err(|why| garbled(&why.to_string()))? {
                if event == DONE {
                    is_done = true;
                    break;
                }
                let event: Value = serde_json::from_slice(&event).map_err(|why| garbled(&why.to_string()))?;
                let Some(choice) = event["choices"].get(0) else { continue };
                words.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
                is_finished |= choice["finish_reason"].is_string();
                reply.truncated |= choice["finish_reason"] == "length";
            }
            reply.text.push_str(&words);
            self.check_size(&reply.text)?;
            if !words.is_empty() {
                said(&words);
            }
            if is_done {
                return Ok(reply);
            }
        }
        // Not all servers say that they are done.
        if is_finished {
            Ok(reply)
        } else {
            Err(Fault::transient("generate_cut", "the stream broke off before its end"))
        }
    }

    async fn whole(&self, mut response: Response) -> Result<Reply, Fault> {
        let mut body = Vec::new();
        while let Some(bytes) = self.next(&mut response).await? {
            body.extend_from_slice(&bytes);
            if body.len() > self.bytes_max() {
                return Err(self.too_large());
            }
        }
        let body: Value = serde_json::from_slice(&body).map_err(|why| garbled(&why.to_string()))?;
        let choice = &body["choices"][0];
        let text =
            choice["message"]["content"].as_str().ok_or_else(|| garbled("there is no choices[0].message.content"))?;
        self.check_size(text)?;
        Ok(Reply { text: text.to_owned(), truncated: choice["finish_reason"] == "length" })
    }

    fn bytes_max(&self) -> usize {
        self.answer_bytes_max.saturating_mul(ESCAPED).saturating_add(ENVELOPE)
    }

    fn check_size(&self, text: &str) -> Result<(), Fault> {
        if text.len() > self.answer_bytes_max { Err(self.too_large()) } else { Ok(()) }
    }

    fn too_large(&self) -> Fault {
        Fault::poison("answer_too_large", format_args!("the answer has more than {} bytes", self.answer_bytes_max))
    }

    /// What a status other than success means.
    async fn refused(&self, mut response: Response) -> Fault {
        let status = response.status();
        let mut said = Vec::new();
        // What it says of its reasons is told where it comes; the status alone decides.
        while said.len() < REFUSAL_BYTES_MAX
            && let Ok(Some(bytes)) = self.next(&mut response).await
        {
            said.extend_from_slice(&bytes);
        }
        said.truncate(REFUSAL_BYTES_MAX);
        let why = format!("the API answered {status}: {}", String::from_utf8_lossy(&said).trim());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Fault::fatal("generate_refuses_us", why),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Fault::transient("generate_busy", why)
            }
            status if status.is_client_error() => Fault::poison("generate_refused", why),
            _ => Fault::transient("generate_away", why),
        }
    }
}

fn away(why: reqwest::Error) -> Fault {
    // The URL is the operator's and may have a secret in it.
    let why = why.without_url();
    let cause = std::error::Error::source(&why).map_or_else(String::new, |cause| format!(": {cause}"));
    Fault::transient("generate_away", format_args!("{why}{cause}"))
}

fn garbled(why: &str) -> Fault {
    Fault::transient("generate_garbled", format_args!("the API's answer cannot be read: {why}"))
}
