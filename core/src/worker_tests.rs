//! The codec between a worker and its child: what was said comes back, and no bytes at all make a reader panic or take
//! more memory than it was allowed.

use super::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const FRAME_MAX: usize = 1 << 20;

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn record() -> impl Strategy<Value = Record> {
    let header = (bytes(), bytes()).prop_map(|(name, value)| Header { name, value });
    let parts = (option::of(bytes()), option::of(bytes()), vec(header, 0..4), any::<i64>());
    parts.prop_map(|(key, value, headers, at)| Record { key, value, headers, timestamp: WallMs(at) })
}

fn records() -> impl Strategy<Value = Emitted> {
    vec(record(), 0..4).prop_map(Emitted::from_vec)
}

fn origin() -> impl Strategy<Value = Origin> {
    let parts = (any::<i32>(), any::<i64>(), any::<u32>());
    parts.prop_map(|(partition, offset, attempt)| Origin {
        partition: Partition(partition),
        offset: Offset(offset),
        attempt,
    })
}

fn fault() -> impl Strategy<Value = Fault> {
    let class = prop_oneof![Just(FaultClass::Transient), Just(FaultClass::Poison), Just(FaultClass::Fatal)];
    (class, "[a-z_]{1,20}", "\\PC{0,40}").prop_map(|(class, code, message)| {
        let violations = Box::default();
        Fault { class, code: code.into(), message, violations }
    })
}

fn message() -> impl Strategy<Value = Message> {
    let span = || any::<u64>().prop_map(Duration::from_nanos);
    let phases = (span(), span(), span());
    let phases = phases.prop_map(|(preprocess, infer, postprocess)| Phases { preprocess, infer, postprocess });
    let rejected = (option::of(0..u32::MAX), fault()).prop_map(|(step, fault)| Ended::Rejected { step, fault });
    prop_oneof![
        bytes().prop_map(Message::Start),
        any::<u32>().prop_map(Message::Work),
        (origin(), records()).prop_map(|(origin, records)| Message::Row(origin, records)),
        Just(Message::Ready),
        records().prop_map(|records| Message::Ended(Ended::Emitted(records))),
        "\\PC{0,40}".prop_map(|reason| Message::Ended(Ended::Dropped(reason))),
        rejected.prop_map(Message::Ended),
        phases.prop_map(Message::Spent),
        fault().prop_map(Message::Failed),
        "\\PC{0,40}".prop_map(Message::Panicked),
    ]
}

fn frame(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(FRAME_MAX, &mut out).expect("it is small");
    out
}

/// What a reader makes of a stream's bytes: the messages up to the first damage, or to the end.
fn read(mut stream: &[u8], bytes_max: usize) -> Result<Vec<Message>, Damage> {
    let mut messages = Vec::new();
    while let Some((head, rest)) = stream.split_first_chunk() {
        let head = Head::read(head, bytes_max)?;
        assert!(head.payload_bytes <= bytes_max, "more memory than allowed");
        let (payload, rest) = rest.split_at_checked(head.payload_bytes).ok_or(Damage::Short)?;
        messages.push(head.open(&Bytes::copy_from_slice(payload))?);
        stream = rest;
    }
    if stream.is_empty() { Ok(messages) } else { Err(Damage::Short) }
}

proptest! {
    #[test]
    fn what_was_said_comes_back(messages in vec(message(), 0..6)) {
        let stream: Vec<u8> = messages.iter().flat_map(frame).collect();
        prop_assert_eq!(read(&stream, FRAME_MAX), Ok(messages));
    }

    #[test]
    fn no_bytes_panic(stream in vec(any::<u8>(), 0..200)) {
        prop_assert!(stream.is_empty() || read(&stream, FRAME_MAX).is_err(), "16 random bytes are a frame");
    }

    /// A payload that was never written, under a head that fits it: only the strict decoding is left.
    #[test]
    fn no_payload_panics(kind in any::<u8>(), payload in vec(any::<u8>(), 0..200)) {
        let head = Head { kind, payload_bytes: payload.len(), sum: xxh3_64(&payload) };
        let payload = Bytes::from(payload);
        if let Ok(message) = head.open(&payload) {
            // What is taken for a message is one that this writer writes, to the byte.
            prop_assert_eq!(&frame(&message)[HEAD_BYTES..], &payload[..]);
        }
    }

    #[test]
    fn a_changed_bit_is_damage(message in message(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut stream = frame(&message);
        let at = at.index(stream.len());
        stream[at] ^= 1u8 << bit;
        prop_assert_ne!(read(&stream, FRAME_MAX), Ok(vec![message]));
    }

    #[test]
    fn what_is_too_large_is_not_written(message in message()) {
        let payload = frame(&message).len() - HEAD_BYTES;
        let mut out = b"before".to_vec();
        prop_assert_eq!(message.encode(payload, &mut out), Ok(()));
        prop_assert!(read(&out[6..], payload).is_ok());
        if let Some(less) = payload.checked_sub(1) {
            prop_assert_eq!(read(&out[6..], less), Err(Damage::Malformed("length of a frame")));
            out.truncate(6);
            prop_assert_eq!(message.encode(less, &mut out), Err(TooLarge { bytes: payload, bytes_max: less }));
            prop_assert_eq!(&out[..], b"before");
        }
    }
}

#[test]
fn a_false_count_takes_no_memory() {
    let mut payload = vec![0; 16];
    put_varint(&mut payload, u64::MAX);
    let head = Head { kind: 3, payload_bytes: payload.len(), sum: xxh3_64(&payload) };
    assert_eq!(head.open(&Bytes::from(payload)), Err(Damage::Short));
}

#[test]
fn a_long_message_is_cut_at_a_character() {
    let said = Message::Panicked("ä".repeat(MESSAGE_BYTES_MAX));
    let heard = read(&frame(&said), FRAME_MAX).expect("it is read back");
    let [Message::Panicked(heard)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(heard.len(), MESSAGE_BYTES_MAX);
}

#[test]
fn another_version_says_so() {
    let mut stream = frame(&Message::Ready);
    stream[2] = VERSION + 1;
    assert_eq!(read(&stream, FRAME_MAX), Err(Damage::Version(VERSION + 1)));
}
