//! A secret of the config: comes from a file or a variable, never from the config itself. Never prints its value.

use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::io::Read;
use std::path::Path;

/// The JSON Schema format of secrets; what has it is never shown.
pub(crate) const FORMAT: &str = "secret";

/// A value that is never printed: `"file:PATH"` reads it from a file (without its last line break), `"${VARIABLE}"`
/// from the environment.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A secret with this value.
    #[must_use]
    pub const fn new(value: String) -> Self {
        Self(value)
    }

    /// The value, for the one who needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if CONFIDES.get() { &self.0 } else { "(hidden)" })
    }
}

thread_local! {
    /// Whether this thread writes for somebody who may know secrets.
    static CONFIDES: Cell<bool> = const { Cell::new(false) };
}

/// Ends the confiding, however the writing ends.
struct Confiding;

impl Drop for Confiding {
    fn drop(&mut self) {
        CONFIDES.set(false);
    }
}

/// The value as JSON with its secrets in it, for a process of our own and over a socket that nobody else has. Everywhere else
/// secrets are written as hidden.
///
/// # Errors
/// The value cannot be written as JSON.
pub(crate) fn confide<T: Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    CONFIDES.set(true);
    let _ends = Confiding;
    serde_json::to_vec(value)
}

impl schemars::JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": FORMAT, "examples": ["file:/run/secrets/job-ids"] })
    }
}

/// The longest secret read from a file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The secret that `text` names: the content of `file:PATH` without its last line break, or what came from a variable.
pub(super) fn fetch(text: &str, varied: bool, dir: &Path) -> Result<String, String> {
    let Some(path) = text.strip_prefix("file:") else {
        let why = "a secret is not written into the config: name its file, \"file:PATH\", or a variable, \"${NAME}\"";
        return if varied { Ok(text.to_owned()) } else { Err(why.to_owned()) };
    };
    let path = dir.join(path);
    let unreadable = |why: &dyn fmt::Display| format!("the secret's file {} cannot be read: {why}", path.display());
    let file = std::fs::File::open(&path).map_err(|why| unreadable(&why))?;
    let mut secret = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut secret).map_err(|why| unreadable(&why))?;
    if secret.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(&"it is larger than 64 KiB"));
    }
    let end = secret.trim_end_matches(['\r', '\n']).len();
    secret.truncate(end);
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_written_for_our_own_process_alone() {
        let secret = Secret::new("hush".to_owned());
        let told = confide(&secret).expect("it is text");
        assert_eq!(serde_json::from_slice::<Secret>(&told).expect("it is heard"), secret);
        for shown in [serde_json::to_string(&secret).expect("text"), format!("{secret:?}")] {
            assert!(shown.contains("hidden") && !shown.contains("hush"), "{shown}");
        }
    }

    #[test]
    fn a_writing_that_fails_confides_no_longer() {
        struct Unwritable;
        impl Serialize for Unwritable {
            fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("no"))
            }
        }
        assert!(confide(&Unwritable).is_err());
        assert_eq!(serde_json::to_string(&Secret::new("hush".to_owned())).expect("text"), "\"(hidden)\"");
    }
}
