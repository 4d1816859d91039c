//! `${VARIABLE}` in the strings of a config, in the forms that shells and Compose files have. Never reads the
//! environment itself.

/// Where variables come from.
pub type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// A string with its variables replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// Whether there was a variable in it.
    pub(super) varied: bool,
}

/// Replaces `${NAME}`, `${NAME:-default}` (where it is unset or empty) and `${NAME:?message}` (the message is the error
/// where it is unset or empty). `$${` stands for `${`; a `$` elsewhere is a `$`. What is put in is not looked at again.
pub(super) fn expand(text: &str, variables: &Variables<'_>) -> Result<Expanded, String> {
    let mut expanded = Expanded { text: String::with_capacity(text.len()), varied: false };
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(escaped) = before.strip_suffix('$') {
            expanded.text.push_str(escaped);
            expanded.text.push_str("${");
            rest = after;
            continue;
        }
        let Some(end) = after.find('}') else {
            return Err("a variable is not closed: ${NAME}".to_owned());
        };
        expanded.text.push_str(before);
        expanded.text.push_str(&value_of(&after[..end], variables)?);
        expanded.varied = true;
        rest = &after[end + 1..];
    }
    expanded.text.push_str(rest);
    Ok(expanded)
}

fn value_of(expression: &str, variables: &Variables<'_>) -> Result<String, String> {
    let (name, alternative) = match expression.split_once(':') {
        Some((name, alternative)) => (name, Some(alternative)),
        None => (expression, None),
    };
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(letter) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!("{name:?} is no variable's name: letters, digits and _"));
    }
    let value = variables(name);
    let Some(alternative) = alternative else {
        return value.ok_or_else(|| format!("the variable {name} is not set; set it, or write ${{{name}:-DEFAULT}}"));
    };
    let value = value.filter(|value| !value.is_empty());
    match (alternative.strip_prefix('-'), alternative.strip_prefix('?')) {
        (Some(default), _) => Ok(value.unwrap_or_else(|| default.to_owned())),
        (_, Some(message)) => value.ok_or_else(|| format!("the variable {name} is not set: {message}")),
        _ => Err(format!("available are ${{{name}}}, ${{{name}:-DEFAULT}} and ${{{name}:?MESSAGE}}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, String> {
        let variables = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            "SLY" => Some("${A}".to_owned()),
            _ => None,
        };
        expand(text, &variables).map(|expanded| expanded.text)
    }

    #[test]
    fn every_form_gives_what_a_shell_gives() {
        let table = [
            ("plain $ text", "plain $ text"),
            ("${A}", "one"),
            ("x${A}y${A}", "xoneyone"),
            ("${NONE:-two}", "two"),
            ("${NONE:-}", ""),
            ("${EMPTY:-two}", "two"),
            ("${EMPTY}", ""),
            ("${A:?needed}", "one"),
            ("$${A}", "${A}"),
            ("${SLY}", "${A}"),
        ];
        for (text, wanted) in table {
            assert_eq!(expanded(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        let table = [
            ("${NONE}", "NONE is not set"),
            ("${NONE:?say which brokers}", "say which brokers"),
            ("${EMPTY:?say it}", "say it"),
            ("${A", "not closed"),
            ("${}", "no variable's name"),
            ("${1A}", "no variable's name"),
            ("${A:+x}", "available are"),
        ];
        for (text, wanted) in table {
            let error = expanded(text).expect_err(text);
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
