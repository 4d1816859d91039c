//! What PostgreSQL's error codes mean for records that were to be stored. Never asks a database.

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// The world's: tried again, nothing is lost.
    World,
    /// A row's: which one, is found by halves.
    Row,
    /// The config's or the database's set-up: somebody has to mend it.
    SetUp,
}

/// By the code's class, its first two characters (PostgreSQL's manual, appendix A), and a few codes that their class does not
/// tell.
pub(super) fn blame(code: &str) -> Blame {
    match code {
        // Locks are given back; a standby becomes the primary again; a role's connections end; a failover's old session.
        "55P03" | "55006" | "25006" | "53300" | "57P05" => Blame::World,
        // A trigger of the table's says no.
        "P0001" => Blame::Row,
        _ => match code.get(..2) {
            // Connection, rollback (deadlock, serialization), resources, an operator's hand, I/O, internal errors.
            Some("08" | "40" | "53" | "57" | "58" | "XX") => Blame::World,
            // Data, constraints, a check option of a view.
            Some("22" | "23" | "44") => Blame::Row,
            _ => Blame::SetUp,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_judged_by_their_class() {
        for (code, whose, name) in [
            ("08006", Blame::World, "connection failure"),
            ("57P01", Blame::World, "admin shutdown"),
            ("57014", Blame::World, "statement timeout"),
            ("40P01", Blame::World, "deadlock"),
            ("53100", Blame::World, "disk full"),
            ("25006", Blame::World, "read-only: a standby"),
            ("55P03", Blame::World, "lock not available"),
            ("22P02", Blame::Row, "invalid text"),
            ("22003", Blame::Row, "out of range"),
            ("22P05", Blame::Row, "NUL in a text"),
            ("23502", Blame::Row, "not null"),
            ("23514", Blame::Row, "check"),
            ("P0001", Blame::Row, "a trigger's exception"),
            ("42P01", Blame::SetUp, "no such table"),
            ("42703", Blame::SetUp, "no such column"),
            ("42501", Blame::SetUp, "permission"),
            ("42P10", Blame::SetUp, "no unique index for ON CONFLICT"),
            ("28P01", Blame::SetUp, "password"),
            ("3D000", Blame::SetUp, "no such database"),
            ("", Blame::SetUp, "no code"),
        ] {
            assert_eq!(blame(code), whose, "{code} {name}");
        }
    }
}
