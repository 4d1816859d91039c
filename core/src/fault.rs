//! Why work failed, and whose fault it was: the class decides what happens next. Never decides it itself.

use std::borrow::Cow;
use std::fmt;

/// Whose fault a failure is (DESIGN §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultClass {
    /// The world's: it may pass. The same batch is tried again after a backoff, order kept.
    Transient,
    /// The record's: it will fail again. It becomes a dead letter.
    Poison,
    /// The stage's: it cannot go on. It exits and its supervisor decides.
    Fatal,
}

impl FaultClass {
    /// The name in headers, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Poison => "poison",
            Self::Fatal => "fatal",
        }
    }
}

/// A failure: its class, a code for machines and a message for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Fault {
    /// Whose fault it is.
    pub class: FaultClass,
    /// A stable `snake_case` word that names the kind of failure, e.g. `undecodable_image`.
    pub code: Cow<'static, str>,
    /// What happened, for a person; no secrets.
    pub message: String,
    /// Each single thing that is wrong, where whoever sent the record can mend them one by one; the message tells of them
    /// too. Only a gateway that answers the sender shows them: they stay behind where a fault leaves its process.
    pub violations: Box<[Violation]>,
}

/// One thing that is wrong with a record's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where in the value: a JSON Pointer (RFC 6901), empty for the value itself.
    pub path: String,
    /// What is wrong there, for a person.
    pub message: String,
}

impl Fault {
    /// A failure that may pass.
    pub fn transient(code: impl Into<Cow<'static, str>>, message: impl fmt::Display) -> Self {
        Self {
            class: FaultClass::Transient,
            code: code.into(),
            message: message.to_string(),
            violations: Box::default(),
        }
    }

    /// A failure of the record itself.
    pub fn poison(code: impl Into<Cow<'static, str>>, message: impl fmt::Display) -> Self {
        Self { class: FaultClass::Poison, code: code.into(), message: message.to_string(), violations: Box::default() }
    }

    /// A failure of the stage itself.
    pub fn fatal(code: impl Into<Cow<'static, str>>, message: impl fmt::Display) -> Self {
        Self { class: FaultClass::Fatal, code: code.into(), message: message.to_string(), violations: Box::default() }
    }

    /// With every single thing that is wrong.
    #[must_use]
    pub fn with_violations(self, violations: impl IntoIterator<Item = Violation>) -> Self {
        Self { violations: violations.into_iter().collect(), ..self }
    }
}
