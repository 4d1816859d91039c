//! Server-sent events as they come from a stream of bytes, however it is cut. Never holds more of an event than its limit.

/// The stream has an event that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {0} bytes")]
pub struct TooLong(pub usize);

/// Collects the data of events; their names, ids and comments are passed over.
#[derive(Debug)]
pub struct Events {
    bytes_max: usize,
    /// The line that has begun.
    line: Vec<u8>,
    /// The data of the event that has begun.
    data: Option<Vec<u8>>,
    /// The last byte ended a line as `\r`; a `\n` that follows is a part of that end.
    after_return: bool,
}

impl Events {
    /// None yet; each may have so many bytes.
    #[must_use]
    pub const fn new(bytes_max: usize) -> Self {
        Self { bytes_max, line: Vec::new(), data: None, after_return: false }
    }

    /// Takes what has come next; the data of the events that it ends.
    ///
    /// # Errors
    /// An event is too long: the stream cannot be read on.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut ended = Vec::new();
        for byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, *byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => ended.extend(self.line()),
                byte => {
                    self.line.push(*byte);
                    if self.line.len() + self.data.as_ref().map_or(0, Vec::len) > self.bytes_max {
                        return Err(TooLong(self.bytes_max));
                    }
                }
            }
        }
        Ok(ended)
    }

    /// A line has ended; the data of the event, where it ends one.
    fn line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.data.take();
        }
        if let Some(value) = line.strip_prefix(b"data:") {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => self.data = Some(value.to_owned()),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn data_is_collected_and_all_else_passed_over() {
        let mut events = Events::new(100);
        let found = events.take(b": hi\nevent: x\ndata: one\ndata:two\r\n\r\nid: 7\n\ndata: {\"a\": 1}\n\ndata: cut");
        assert_eq!(found, Ok(vec![b"one\ntwo".to_vec(), b"{\"a\": 1}".to_vec()]));
    }

    #[test]
    fn an_endless_event_is_an_error() {
        let mut events = Events::new(8);
        assert_eq!(events.take(b"data: 12345678"), Err(TooLong(8)));
        let mut events = Events::new(12);
        assert_eq!(events.take(b"data: 12\ndata: 34\ndata: 56\n"), Err(TooLong(12)));
    }

    proptest! {
        #[test]
        fn it_matters_not_how_the_stream_is_cut(
            texts in prop::collection::vec("[a-z {}:]{0,12}", 0..6),
            end in prop::sample::select(vec!["\n", "\r\n", "\r"]), cuts in prop::collection::vec(1..9_usize, 0..40),
        ) {
            let stream: String = texts.iter().map(|text| format!("data: {text}{end}{end}")).collect();
            let whole = Events::new(1_000).take(stream.as_bytes()).expect("short");
            prop_assert_eq!(&whole, &texts.iter().map(|text| text.clone().into_bytes()).collect::<Vec<_>>());
            let (mut events, mut parts, mut rest) = (Events::new(1_000), Vec::new(), stream.as_bytes());
            for cut in cuts {
                let (part, after) = rest.split_at(cut.min(rest.len()));
                parts.extend(events.take(part).expect("short"));
                rest = after;
            }
            parts.extend(events.take(rest).expect("short"));
            prop_assert_eq!(parts, whole);
        }
    }
}
