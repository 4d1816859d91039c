//! What an ONNX file says of itself around its graph: who made it, for which operators. Reads the outermost protobuf message
//! (onnx.proto3, `ModelProto`) and nothing else; the graph is ONNX Runtime's to read.

use std::fmt;

/// Who made a file, and for what. A file need not say any of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The version of the format.
    pub ir_version: Option<u64>,
    /// What wrote it.
    pub producer: String,
    /// That program's version.
    pub producer_version: String,
    /// The operator sets that the graph is written in: domain (empty for ONNX's own) and version.
    pub opsets: Vec<(String, u64)>,
}

impl Provenance {
    /// Reads a file; what is no protobuf ends it early, since ONNX Runtime will tell.
    #[must_use]
    pub fn read(model: &[u8]) -> Self {
        let mut found = Self::default();
        for field in Fields(model) {
            match field {
                (1, Value::Number(version)) => found.ir_version = Some(version),
                (2, Value::Bytes(name)) => found.producer = text(name),
                (3, Value::Bytes(version)) => found.producer_version = text(version),
                (8, Value::Bytes(opset)) => found.opsets.push(read_opset(opset)),
                _ => {}
            }
        }
        found
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.producer.as_str(), self.producer_version.as_str()) {
            ("", _) => f.write_str("unknown")?,
            (producer, "") => f.write_str(producer)?,
            (producer, version) => write!(f, "{producer} {version}")?,
        }
        if let Some(version) = self.ir_version {
            write!(f, ", IR version {version}")?;
        }
        for (domain, version) in &self.opsets {
            match domain.as_str() {
                "" | "ai.onnx" => write!(f, ", opset {version}")?,
                domain => write!(f, ", {domain} opset {version}")?,
            }
        }
        Ok(())
    }
}

fn read_opset(message: &[u8]) -> (String, u64) {
    let mut opset = (String::new(), 0);
    for field in Fields(message) {
        match field {
            (1, Value::Bytes(domain)) => opset.0 = text(domain),
            (2, Value::Number(version)) => opset.1 = version,
            _ => {}
        }
    }
    opset
}

/// Readable, and not longer than a line.
fn text(bytes: &[u8]) -> String {
    const CHARACTERS_MAX: usize = 100;
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(CHARACTERS_MAX).collect()
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a protobuf message, until it ends or is none.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self, length: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.bytes(8).map(|_| Value::Other)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.bytes(length)?)
            }
            5 => self.bytes(4).map(|_| Value::Other)?,
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_testkit::onnx::{FLOAT, Graph, flatten};
    use proptest::prelude::*;

    #[test]
    fn a_file_says_who_made_it() {
        let shape = [None, Some(2)];
        let model = flatten(&Graph { input: &shape, outputs: &[("out", &shape)], element: FLOAT });
        assert_eq!(Provenance::read(&model).to_string(), "bulkhead-testkit 1, IR version 8, opset 17");
        assert_eq!(Provenance::read(b"").to_string(), "unknown");
    }

    proptest! {
        #[test]
        fn whatever_it_is_reading_it_ends(bytes: Vec<u8>) {
            prop_assert!(Provenance::read(&bytes).to_string().chars().all(|c| !c.is_control()));
        }
    }
}
