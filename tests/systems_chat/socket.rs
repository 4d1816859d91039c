//! A WebSocket client that does what a test says and nothing more: text frames, answers to pings. Never reconnects.

use serde_json::Value;
use std::io::{self, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// RFC 6455's own example; the server's answer to it is not the point of these tests.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// What a socket got.
#[derive(Debug, PartialEq)]
pub(crate) enum Got {
    /// A message.
    Message(Value),
    /// The server closed it, with this code.
    Closed(u16),
}

/// An open socket.
pub(crate) struct Socket {
    stream: BufReader<TcpStream>,
    is_mute: bool,
}

impl Socket {
    /// Opens one at a URL of the gateway, with these headers; or what was answered instead of the upgrade.
    pub(crate) fn try_open(url: &str, headers: &[(&str, &str)]) -> Result<Self, (u16, String)> {
        let rest = url.strip_prefix("http://").expect("a URL of the gateway");
        let (host, path) = rest.split_at(rest.find('/').expect("a path"));
        let stream = TcpStream::connect(host).expect("the gateway listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let mut request =
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n");
        request += &format!("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n");
        headers.iter().for_each(|(name, value)| request += &format!("{name}: {value}\r\n"));
        let mut socket = Self { stream: BufReader::new(stream), is_mute: false };
        socket.stream.get_mut().write_all((request + "\r\n").as_bytes()).expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.byte().expect("an answer"));
        }
        let head = String::from_utf8(head).expect("text");
        let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        if status == 101 {
            return Ok(socket);
        }
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        socket.stream.read_exact(&mut body).expect("a body");
        Err((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// Sends a text.
    pub(crate) fn send(&mut self, text: &str) {
        self.frame(0x81, text.as_bytes());
    }

    /// Sends a query.
    pub(crate) fn ask(&mut self, text: &str, id: &str) {
        self.send(&serde_json::json!({ "type": "query", "text": text, "id": id }).to_string());
    }

    /// A frame whose mask is zeros: masked, as clients' must be, and readable.
    fn frame(&mut self, head: u8, payload: &[u8]) {
        let mut frame = vec![head];
        match payload.len() {
            len @ 0..126 => frame.push(0x80 | u8::try_from(len).expect("small")),
            len @ 126..65_536 => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(len).expect("small").to_be_bytes());
            }
            len => {
                frame.push(0x80 | 127);
                frame.extend((len as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        // One that the server has closed already is told by what is read.
        drop(self.stream.get_mut().write_all(&frame));
    }

    /// What comes next; pings are answered and passed over.
    pub(crate) fn next(&mut self) -> Got {
        loop {
            let (head, len) = (self.byte().expect("a frame"), self.byte().expect("a frame"));
            let len = match len & 0x7f {
                126 => u64::from(u16::from_be_bytes([self.byte().expect("a length"), self.byte().expect("a length")])),
                127 => {
                    let mut len = [0; 8];
                    self.stream.read_exact(&mut len).expect("a length");
                    u64::from_be_bytes(len)
                }
                len => len.into(),
            };
            let mut payload = vec![0; usize::try_from(len).expect("it fits")];
            self.stream.read_exact(&mut payload).expect("a payload");
            match head & 0x0f {
                1 => return Got::Message(serde_json::from_slice(&payload).expect("JSON")),
                8 => return Got::Closed(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))),
                9 if !self.is_mute => self.frame(0x8a, &payload),
                _ => {}
            }
        }
    }

    /// Answers no ping from now on.
    pub(crate) fn mute(&mut self) {
        self.is_mute = true;
    }

    /// The code that the server closes it with; what it says before is passed over.
    pub(crate) fn closed(&mut self) -> u16 {
        loop {
            if let Got::Closed(code) = self.next() {
                return code;
            }
        }
    }

    /// The next message; panics where the server closes.
    pub(crate) fn message(&mut self) -> Value {
        match self.next() {
            Got::Message(message) => message,
            Got::Closed(code) => panic!("closed with {code}"),
        }
    }

    /// The next message of this type; all before it are passed over.
    pub(crate) fn wait_for(&mut self, kind: &str) -> Value {
        loop {
            let message = self.message();
            if message["type"] == kind {
                return message;
            }
        }
    }
}
