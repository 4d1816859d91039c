//! Job ids: names that a gateway gives to what it accepts, and that any gateway with the same secret recognises.
//! Never draws a random number, reads a clock or remembers an id.
//!
//! An id is 30 bytes, 40 characters of URL-safe base64: `kind (1) | body (16) | mac (13)`. The body is the acceptance
//! time and a random part, or a digest of the client's idempotency key; the mac is a truncated HMAC-SHA-256 over
//! (tenant, pipeline, kind, body). 104 bits cannot be guessed, so an id that verifies was issued by a gateway with this
//! secret in this scope, though nobody kept a list.

use crate::time::WallMs;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;
use std::str::FromStr;

/// Characters of an id in text.
pub const TEXT_LEN: usize = 40;
/// Random bytes that an id without an idempotency key takes: 80 bits beside the millisecond.
pub const RANDOM_LEN: usize = 10;

const BODY_LEN: usize = 16;
const TIME_LEN: usize = BODY_LEN - RANDOM_LEN;
const MAC_AT: usize = 1 + BODY_LEN;
const RAW_LEN: usize = 30;
/// Latest time that fits into the id, in the year 10889.
const TIME_MAX: u64 = (1 << (8 * TIME_LEN)) - 1;

/// First byte of an id. Its upper six bits are the first character, so an id never starts with `-`.
const KIND_RANDOM: u8 = 1;
const KIND_KEYED: u8 = 2;

/// The name of one accepted job. Parsed is not verified: [`JobIds::verify`] tells an issued id from a forged one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId([u8; RAW_LEN]);

/// Whose job it is: an id of one scope is unknown in every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope<'a> {
    /// The client's identity, empty where clients have none.
    pub tenant: &'a str,
    /// The pipeline that the record goes to.
    pub pipeline: &'a str,
}

/// The text is no id that was issued in this scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a job")]
pub struct NotIssued;

impl JobId {
    /// When the job was accepted; `None` where the id comes from an idempotency key, which has no time.
    #[must_use]
    pub fn accepted(&self) -> Option<WallMs> {
        if self.0[0] != KIND_RANDOM {
            return None;
        }
        let ms = self.0[1..=TIME_LEN].iter().fold(0_i64, |ms, byte| ms << 8 | i64::from(*byte));
        Some(WallMs(ms))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({self})")
    }
}

impl FromStr for JobId {
    type Err = NotIssued;

    fn from_str(text: &str) -> Result<Self, NotIssued> {
        let mut raw = [0; RAW_LEN];
        // The length is checked first: 30 bytes are 40 characters without spare bits, so text and id are one to one.
        if text.len() != TEXT_LEN || URL_SAFE_NO_PAD.decode_slice(text, &mut raw) != Ok(RAW_LEN) {
            return Err(NotIssued);
        }
        if matches!(raw[0], KIND_RANDOM | KIND_KEYED) { Ok(Self(raw)) } else { Err(NotIssued) }
    }
}

/// Issues ids and verifies them. All gateways of one installation hold the same secret.
#[derive(Clone)]
pub struct JobIds {
    keyed: Hmac<Sha256>,
}

impl fmt::Debug for JobIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JobIds(secret)")
    }
}

impl JobIds {
    /// From the secret, any number of bytes; fewer than 16 are guessable.
    ///
    /// # Panics
    /// Never: HMAC takes keys of every length.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self { keyed: Hmac::new_from_slice(secret).expect("HMAC takes keys of every length") }
    }

    /// The id of a job without an idempotency key, accepted now.
    #[must_use]
    pub fn random(&self, scope: Scope<'_>, accepted: WallMs, random: [u8; RANDOM_LEN]) -> JobId {
        let ms = u64::try_from(accepted.0).unwrap_or(0).min(TIME_MAX);
        let mut body = [0; BODY_LEN];
        body[..TIME_LEN].copy_from_slice(&ms.to_be_bytes()[8 - TIME_LEN..]);
        body[TIME_LEN..].copy_from_slice(&random);
        self.seal(scope, KIND_RANDOM, body)
    }

    /// The id of the job that this client names `key` on this route: the same on every gateway, every time.
    #[must_use]
    pub fn from_key(&self, scope: Scope<'_>, route: &str, key: &str) -> JobId {
        let digest = self.mac("key", scope, &[route.as_bytes(), key.as_bytes()]).finalize().into_bytes();
        let mut body = [0; BODY_LEN];
        body.copy_from_slice(&digest[..BODY_LEN]);
        self.seal(scope, KIND_KEYED, body)
    }

    /// The id of the event at this place in the body of a request that has an idempotency key: the same on every gateway, every
    /// time.
    #[must_use]
    pub fn nth(&self, scope: Scope<'_>, request: JobId, index: u64) -> JobId {
        let digest = self.mac("event", scope, &[&request.0, &index.to_be_bytes()]).finalize().into_bytes();
        let mut body = [0; BODY_LEN];
        body.copy_from_slice(&digest[..BODY_LEN]);
        self.seal(scope, KIND_KEYED, body)
    }

    /// The id that this text names, where a gateway issued it in this scope. Takes the same time for every forgery.
    ///
    /// # Errors
    /// The text is no id, or one of another secret or scope.
    pub fn verify(&self, scope: Scope<'_>, text: &str) -> Result<JobId, NotIssued> {
        let id: JobId = text.parse()?;
        let (named, mac) = id.0.split_at(MAC_AT);
        self.mac("id", scope, &[named]).verify_truncated_left(mac).map_err(|_| NotIssued)?;
        Ok(id)
    }

    fn seal(&self, scope: Scope<'_>, kind: u8, body: [u8; BODY_LEN]) -> JobId {
        let mut raw = [0; RAW_LEN];
        raw[0] = kind;
        raw[1..MAC_AT].copy_from_slice(&body);
        let mac = self.mac("id", scope, &[&raw[..MAC_AT]]).finalize().into_bytes();
        raw[MAC_AT..].copy_from_slice(&mac[..RAW_LEN - MAC_AT]);
        JobId(raw)
    }

    /// Every part is preceded by its length: no two lists of parts are the same bytes.
    fn mac(&self, domain: &str, scope: Scope<'_>, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        let named = [domain, scope.tenant, scope.pipeline].map(str::as_bytes);
        for part in named.iter().chain(parts) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: &[u8] = b"a secret of this installation";
    const HERE: Scope<'_> = Scope { tenant: "acme", pipeline: "digits" };

    /// The texts were computed with Python's hmac module from the layout above.
    #[test]
    fn ids_of_a_known_secret_never_change() {
        let ids = JobIds::new(SECRET);
        let keyed = ids.from_key(HERE, "/api/classify", "order-1").to_string();
        let random = ids.random(HERE, WallMs(1_700_000_000_000), [7; RANDOM_LEN]).to_string();
        assert_eq!(
            (keyed.as_str(), random.as_str()),
            ("AjvWXuGq0XpvhprTUxhNahQq0i4edM_bzpPq7SVu", "AQGLz-VoAAcHBwcHBwcHBwf_Z5Q9ZeWExCGy-mVk",)
        );
    }

    #[test]
    fn events_of_one_request_have_names_of_their_own_that_verify() {
        let ids = JobIds::new(SECRET);
        let request = ids.from_key(HERE, "/register_event", "batch-1");
        let named = [0, 1, 0].map(|index| ids.nth(HERE, request, index));
        assert_eq!(named[0], named[2]);
        assert!(named[0] != named[1] && named[0] != request);
        assert_eq!(named.map(|id| ids.verify(HERE, &id.to_string())), named.map(Ok));
        let other = Scope { tenant: "other", ..HERE };
        assert_ne!(ids.nth(other, request, 0), named[0]);
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let ids = JobIds::new(SECRET);
        for text in ["", "garbage", &"A".repeat(40), &"-".repeat(40), &"é".repeat(20), &"A".repeat(41)] {
            assert_eq!(ids.verify(HERE, text), Err(NotIssued), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_issued_id_verifies_and_survives_text(
            tenant in ".{0,20}", pipeline in ".{0,20}", route in ".{0,20}", key in ".{0,40}", ms in 0..TIME_MAX as i64, random: [u8; RANDOM_LEN],
        ) {
            let (ids, scope) = (JobIds::new(SECRET), Scope { tenant: &tenant, pipeline: &pipeline });
            let drawn = ids.random(scope, WallMs(ms), random);
            prop_assert_eq!(drawn.accepted(), Some(WallMs(ms)));
            let named = ids.from_key(scope, &route, &key);
            prop_assert_eq!(named.accepted(), None);
            for id in [drawn, named] {
                let text = id.to_string();
                prop_assert_eq!(text.len(), TEXT_LEN);
                prop_assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'), "{}", text);
                prop_assert!(text.starts_with('A'));
                // Another instance with the same secret: another gateway.
                prop_assert_eq!(JobIds::new(SECRET).verify(scope, &text), Ok(id));
            }
        }

        #[test]
        fn another_scope_or_secret_refuses_it(
            a in ("[ab/]{0,3}", "[ab/]{0,3}"), b in ("[ab/]{0,3}", "[ab/]{0,3}"), key in ".{0,20}", random: [u8; RANDOM_LEN],
        ) {
            prop_assume!(a != b);
            let ids = JobIds::new(SECRET);
            let (a, b) = (Scope { tenant: &a.0, pipeline: &a.1 }, Scope { tenant: &b.0, pipeline: &b.1 });
            for id in [ids.random(a, WallMs(1), random), ids.from_key(a, "r", &key)] {
                prop_assert_eq!(ids.verify(b, &id.to_string()), Err(NotIssued));
                prop_assert_eq!(JobIds::new(b"another").verify(a, &id.to_string()), Err(NotIssued));
            }
        }

        #[test]
        fn every_mutation_is_refused(key in ".{0,20}", at in 0..TEXT_LEN, to in "[A-Za-z0-9_=+/-]") {
            let ids = JobIds::new(SECRET);
            let issued = ids.from_key(HERE, "r", &key).to_string();
            let mut forged = issued.clone();
            forged.replace_range(at..=at, &to);
            prop_assume!(forged != issued);
            prop_assert_eq!(ids.verify(HERE, &forged), Err(NotIssued));
        }

        #[test]
        fn ids_are_equal_exactly_where_scope_route_and_key_are(
            a in ("[ab/]{0,3}", "[ab/]{0,3}", "[ab/]{0,3}"), b in ("[ab/]{0,3}", "[ab/]{0,3}", "[ab/]{0,3}"),
        ) {
            let ids = JobIds::new(SECRET);
            let id = |(tenant, route, key): &(String, String, String)| {
                ids.from_key(Scope { tenant, pipeline: "digits" }, route, key)
            };
            prop_assert_eq!(id(&a) == id(&b), a == b);
        }
    }
}
