//! What a record claims: its key hash, fingerprint and round. Never decides what a claim is worth.

use crate::batch::{Claim, KeyHash};
use crate::ids::{Offset, Partition, Round};
use crate::record::{FINGERPRINT_HEADER, ROUND_HEADER, Record, SourceRecord};
use smallvec::SmallVec;

/// The header that names the tenant a record belongs to; without it the tenant is empty.
pub const TENANT_HEADER: &str = "__bulkhead.tenant";

/// The highest round that counts. A header that says more is read as this, so that the index may keep it in 16 bits;
/// it lies far above any sensible `rounds_max`.
pub const ROUND_MAX: Round = Round(u16::MAX as u32);

/// The domain of the ledger's key hashes: a hash made for anything else never equals one of these.
const CONTEXT: &str = "bulkhead 2026 ledger claim v1";

/// The first byte of what is hashed: what kind of key follows.
const BY_KEY: u8 = 0;
const BY_PLACE: u8 = 1;

/// Where a record's idempotency key is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// In the last header of this name.
    Header(String),
    /// It is the record's own key.
    Key,
}

/// Makes the claims of one pipeline's records.
#[derive(Clone, Debug)]
pub struct Claimer {
    /// The BLAKE3 key that stands for the pipeline: so a usual key and its framing fit one 64-byte block.
    domain: [u8; 32],
    topic: String,
    source: KeySource,
}

impl Claimer {
    /// Claims for the pipeline's source topic.
    #[must_use]
    pub fn new(pipeline: &str, topic: &str, source: KeySource) -> Self {
        Self { domain: blake3::derive_key(CONTEXT, pipeline.as_bytes()), topic: topic.to_owned(), source }
    }

    /// What the record claims.
    ///
    /// An empty key counts as none: it would make duplicates of records that have nothing to do with each other.
    #[must_use]
    pub fn claim(&self, partition: Partition, source: &SourceRecord) -> Claim {
        let record = &source.record;
        let key = match self.key(record) {
            Some(key) if !key.is_empty() => self.hash_key(record, key),
            _ => self.hash_place(partition, source.offset),
        };
        let fingerprint = noted_fingerprint(record).unwrap_or_else(|| fingerprint(record.payload()));
        Claim { key, fingerprint, round: round_of(record) }
    }

    /// What each record of a batch claims, in their order.
    #[must_use]
    pub fn claims(&self, partition: Partition, records: &[SourceRecord]) -> Vec<Claim> {
        records.iter().map(|record| self.claim(partition, record)).collect()
    }

    fn key<'a>(&self, record: &'a Record) -> Option<&'a [u8]> {
        match &self.source {
            KeySource::Header(name) => record.header(name).map(|value| &value[..]),
            KeySource::Key => record.key.as_deref(),
        }
    }

    fn hash_key(&self, record: &Record, key: &[u8]) -> KeyHash {
        let tenant = record.header(TENANT_HEADER).map_or(&[][..], |value| &value[..]);
        let mut framed = Framed::new(BY_KEY);
        framed.field(tenant);
        framed.field(key);
        framed.hash(&self.domain)
    }

    fn hash_place(&self, partition: Partition, offset: Offset) -> KeyHash {
        let mut framed = Framed::new(BY_PLACE);
        framed.field(self.topic.as_bytes());
        framed.field(&partition.0.to_le_bytes());
        framed.field(&offset.0.to_le_bytes());
        framed.hash(&self.domain)
    }
}

/// Fields in front of each of which stands its length, so that no two lists of fields have the same bytes.
struct Framed(SmallVec<[u8; 256]>);

impl Framed {
    fn new(kind: u8) -> Self {
        let mut bytes = SmallVec::new();
        bytes.push(kind);
        Self(bytes)
    }

    fn field(&mut self, field: &[u8]) {
        // A record's field is shorter than 4 GiB: Kafka's own lengths are signed 32-bit numbers.
        self.0.extend_from_slice(&(field.len() as u32).to_le_bytes());
        self.0.extend_from_slice(field);
    }

    fn hash(&self, domain: &[u8; 32]) -> KeyHash {
        let hash = blake3::keyed_hash(domain, &self.0);
        let (first, _) = hash.as_bytes().split_first_chunk().expect("a BLAKE3 hash has 32 bytes");
        KeyHash(u128::from_le_bytes(*first))
    }
}

/// The first 64 bits of BLAKE3 over a payload; an empty payload and none are the same.
#[must_use]
pub fn fingerprint(payload: &[u8]) -> u64 {
    let hash = blake3::hash(payload);
    let (first, _) = hash.as_bytes().split_first_chunk().expect("a BLAKE3 hash has 32 bytes");
    u64::from_le_bytes(*first)
}

/// The fingerprint of what a client sent, as the gateway that made the record of it noted it: what the gateway's steps made
/// of the payload may differ from time to time (they may look at the clock), and is one request's all the same.
#[must_use]
pub fn noted_fingerprint(record: &Record) -> Option<u64> {
    let digits = std::str::from_utf8(record.header(FINGERPRINT_HEADER)?).ok()?;
    let is_hex = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// The record's round: 0 without the header or where it is not a number, at most [`ROUND_MAX`].
#[must_use]
pub fn round_of(record: &Record) -> Round {
    let Some(value) = record.header(ROUND_HEADER) else { return Round(0) };
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Round(0);
    }
    let count = value.iter().fold(0u32, |n, digit| n.saturating_mul(10).saturating_add(u32::from(digit - b'0')));
    Round(count).min(ROUND_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Header;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn record(key: Option<&[u8]>, tenant: Option<&[u8]>, value: &[u8]) -> SourceRecord {
        let mut headers = Vec::new();
        if let Some(tenant) = tenant {
            headers.push(Header::new(TENANT_HEADER, Bytes::copy_from_slice(tenant)));
        }
        let key = key.map(Bytes::copy_from_slice);
        let value = Some(Bytes::copy_from_slice(value));
        SourceRecord { offset: Offset(7), record: Record { key, value, headers, ..Record::default() } }
    }

    fn by_key(pipeline: &str) -> Claimer {
        Claimer::new(pipeline, "orders", KeySource::Key)
    }

    proptest! {
        #[test]
        fn only_the_same_pipeline_tenant_and_key_claim_the_same(
            a in ("[ab]{0,3}", "[ab]{0,3}", "[ab]{1,3}"),
            b in ("[ab]{0,3}", "[ab]{0,3}", "[ab]{1,3}"),
        ) {
            let hash = |(pipeline, tenant, key): &(String, String, String)| {
                by_key(pipeline).claim(Partition(0), &record(Some(key.as_bytes()), Some(tenant.as_bytes()), b"v")).key
            };
            prop_assert_eq!(hash(&a) == hash(&b), a == b);
        }
    }

    #[test]
    fn a_record_without_a_key_claims_its_place() {
        let claimer = by_key("p");
        let claim = |partition, offset, key: Option<&[u8]>| {
            let mut record = record(key, None, b"v");
            record.offset = Offset(offset);
            claimer.claim(Partition(partition), &record).key
        };
        assert_eq!(claim(1, 7, None), claim(1, 7, Some(b"")), "an empty key is no key");
        assert_ne!(claim(1, 7, None), claim(1, 8, None));
        assert_ne!(claim(1, 7, None), claim(2, 7, None));
        assert_eq!(claim(1, 7, Some(b"k")), claim(2, 8, Some(b"k")));
    }

    #[test]
    fn a_missing_tenant_is_the_empty_tenant() {
        let claimer = by_key("p");
        let without = claimer.claim(Partition(0), &record(Some(b"k"), None, b"v"));
        assert_eq!(without, claimer.claim(Partition(0), &record(Some(b"k"), Some(b""), b"v")));
        assert_ne!(without.key, claimer.claim(Partition(0), &record(Some(b"k"), Some(b"t"), b"v")).key);
    }

    #[test]
    fn the_last_header_of_the_name_is_the_key() {
        let claimer = Claimer::new("p", "orders", KeySource::Header("idempotency-key".into()));
        let mut first = record(None, None, b"v");
        first.record.headers.push(Header::new("idempotency-key", "old"));
        first.record.headers.push(Header::new("idempotency-key", "new"));
        let mut second = record(None, None, b"w");
        second.record.headers.push(Header::new("idempotency-key", "new"));
        let (first, second) = (claimer.claim(Partition(0), &first), claimer.claim(Partition(0), &second));
        assert_eq!(first.key, second.key);
        assert_ne!(first.fingerprint, second.fingerprint);
    }

    #[test]
    fn a_noted_fingerprint_stands_for_what_was_sent() {
        let claim = |noted: &str, value: &[u8]| {
            let mut record = record(Some(b"k"), None, value);
            record.record.headers.push(Header::new(FINGERPRINT_HEADER, noted.to_owned()));
            by_key("p").claim(Partition(0), &record).fingerprint
        };
        let sent = fingerprint(b"as it was sent");
        for value in [b"as it was sent".as_slice(), b"what steps made of it"] {
            assert_eq!(claim(&format!("{sent:016x}"), value), sent);
        }
        for none in ["", "12", "+123456789abcdef", "0123456789abcdeg", "0123456789abcdef0"] {
            assert_eq!(claim(none, b"v"), fingerprint(b"v"), "{none}");
        }
    }

    #[test]
    fn a_round_is_a_decimal_number_or_zero() {
        let cases = [("0", 0), ("3", 3), ("65535", 65_535), ("65536", 65_535), ("99999999999", 65_535)];
        for (text, round) in cases.into_iter().chain([("", 0), ("-1", 0), ("1x", 0), ("0x2", 0)]) {
            let record = Record { headers: vec![Header::new(ROUND_HEADER, text)], ..Record::default() };
            assert_eq!(round_of(&record), Round(round), "{text:?}");
        }
        assert_eq!(round_of(&Record::default()), Round(0));
    }
}
