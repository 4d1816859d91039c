//! One end of the socket between a worker and its child: messages in and out, as [`bulkhead_core::worker`] frames them.
//! Never holds more than what one frame may have, and never waits with a limit: whoever must not wait shuts the socket.

use bulkhead_core::wire::Damage;
use bulkhead_core::worker::{HEAD_BYTES, Head, Message, TooLarge};
use bytes::Bytes;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

/// From here on what is said is written, so that a large batch does not lie in memory twice.
const SPILL_BYTES: usize = 256 << 10;
/// What a reader takes for a frame before its bytes have come.
const FIRST_BYTES: usize = 64 << 10;

/// Why nothing more can be heard or said.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The other end is gone.
    #[error("the other end closed the socket")]
    Closed,
    /// The socket failed.
    #[error("the socket failed: {0}")]
    Io(io::Error),
    /// What came is not what the other end may say.
    #[error("rubbish came through the socket: {0}")]
    Rubbish(Damage),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// One end of the socket.
#[derive(Debug)]
pub struct Channel {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    out: Vec<u8>,
    bytes_max: usize,
}

impl Channel {
    /// This end. Frames have at most so many bytes, in both directions.
    ///
    /// # Errors
    /// The socket cannot be cloned.
    pub fn new(socket: UnixStream, bytes_max: usize) -> io::Result<Self> {
        Ok(Self { reader: BufReader::new(socket.try_clone()?), writer: socket, out: Vec::new(), bytes_max })
    }

    pub(super) const fn limit(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Says a message; it may not leave before [`flush`](Self::flush).
    ///
    /// # Errors
    /// The socket's; in it, that the message does not fit a frame and was not said.
    pub fn say(&mut self, message: &Message) -> Result<Result<(), TooLarge>, Broken> {
        let said = message.encode(self.bytes_max, &mut self.out);
        if self.out.len() >= SPILL_BYTES {
            self.flush()?;
        }
        Ok(said)
    }

    /// Says a message that fits, and writes all that was said.
    ///
    /// # Errors
    /// The socket's, or that it does not fit.
    pub fn tell(&mut self, message: &Message) -> Result<(), Broken> {
        self.say(message)?.map_err(|why| Broken::Io(io::Error::other(why)))?;
        self.flush()
    }

    /// Writes what was said.
    ///
    /// # Errors
    /// The socket's.
    pub fn flush(&mut self) -> Result<(), Broken> {
        self.writer.write_all(&self.out)?;
        self.out.clear();
        self.out.shrink_to(SPILL_BYTES);
        Ok(())
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// The end of the stream, the socket's failure, or something that is no message.
    pub fn hear(&mut self) -> Result<Message, Broken> {
        let mut head = [0; HEAD_BYTES];
        self.reader.read_exact(&mut head)?;
        let head = Head::read(&head, self.bytes_max).map_err(Broken::Rubbish)?;
        // A false length takes no memory before as many bytes have come.
        let mut payload = Vec::with_capacity(head.payload_bytes.min(FIRST_BYTES));
        let length = u64::try_from(head.payload_bytes).unwrap_or(u64::MAX);
        if (&mut self.reader).take(length).read_to_end(&mut payload)? < head.payload_bytes {
            return Err(Broken::Closed);
        }
        head.open(&Bytes::from(payload)).map_err(Broken::Rubbish)
    }

    /// Whether the other end is to be waited for at most so long, until this is called again.
    pub(super) fn wait_at_most(&self, wait: Option<std::time::Duration>) -> io::Result<()> {
        self.writer.set_read_timeout(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_core::ids::{Offset, Partition};
    use bulkhead_core::record::{Origin, Record};
    use bulkhead_core::verdict::Emitted;

    fn pair(bytes_max: usize) -> (Channel, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        (Channel::new(ours, bytes_max).expect("a channel"), theirs)
    }

    #[test]
    fn large_and_small_messages_cross() {
        let (mut here, theirs) = pair(4 << 20);
        let row = |bytes: usize| {
            let value = Some(vec![7; bytes].into());
            let origin = Origin { partition: Partition(3), offset: Offset(7), attempt: 1 };
            Message::Row(origin, Emitted::from_buf([Record { value, ..Record::default() }]))
        };
        let said = [row(3 << 20), row(0), Message::Work(2)];
        let messages = said.clone();
        let speaker = std::thread::spawn(move || {
            let mut there = Channel::new(theirs, 4 << 20).expect("a channel");
            for message in &messages {
                there.say(message).expect("the socket is open").expect("it fits");
            }
            there.flush().expect("the socket is open");
        });
        let heard: Vec<Message> = said.iter().map(|_| here.hear().expect("a message")).collect();
        assert!(heard == said, "what was said was not heard");
        speaker.join().expect("the speaker does not panic");
        assert!(matches!(here.hear(), Err(Broken::Closed)), "its end hung up");
    }

    #[test]
    fn rubbish_and_half_a_frame_are_told_apart_from_an_end() {
        let (mut here, mut theirs) = pair(1 << 10);
        theirs.write_all(b"Warning: this native library prints where it likes\n").expect("written");
        assert!(matches!(here.hear(), Err(Broken::Rubbish(_))));
        let (mut here, mut theirs) = pair(1 << 10);
        let mut frame = Vec::new();
        Message::Start(vec![1; 100].into()).encode(1 << 10, &mut frame).expect("it fits");
        theirs.write_all(&frame[..60]).expect("written");
        drop(theirs);
        assert!(matches!(here.hear(), Err(Broken::Closed)));
    }
}
