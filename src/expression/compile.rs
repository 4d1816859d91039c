//! From an expression's text to its program; what is wrong is told with its line and column. Never runs it.

use super::builtin::{Kind, definitions, natives};
use jaq_core::compile::Undefined;
use jaq_core::load::lex::{Lexer, StrPart, Tok, Token};
use jaq_core::load::{self, Arena, File, Loader, span};
use jaq_core::{Compiler, Filter};
use std::collections::BTreeSet;
use std::fmt;

/// Variables that every expression has, in the order in which they are bound.
pub(super) const VARIABLES: [&str; 5] = ["$headers", "$key", "$id", "$origin", "$now"];
/// A longer text is no expression.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// How deeply brackets of all kinds may lie in one another: the parser goes as deep.
const NESTING_MAX: usize = 64;

/// Which of the variables an expression names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    pub(super) headers: bool,
    pub(super) key: bool,
    pub(super) id: bool,
    pub(super) origin: bool,
    pub(super) now: bool,
}

/// The program, and what it needs to know of a record.
pub(super) fn compile(text: &str) -> Result<(Filter<Kind>, Uses), String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("an expression has at most {TEXT_BYTES_MAX} bytes"));
    }
    if text.bytes().filter(|byte| b"([{".contains(byte)).count() > NESTING_MAX {
        nesting(text)?;
    }
    let uses = uses(text)?;
    let (arena, loader) = (Arena::default(), Loader::new(definitions()));
    let modules = loader.load(&arena, File { code: text, path: () }).map_err(|errors| {
        let told = errors.into_iter().flat_map(|(_, error)| match error {
            load::Error::Io(_) => vec!["an expression is complete in itself: no include, no import".to_owned()],
            load::Error::Lex(errors) => {
                errors.iter().map(|(expected, found)| wrong(text, expected.as_str(), found)).collect()
            }
            load::Error::Parse(errors) => {
                errors.iter().map(|(expected, found)| wrong(text, expected.as_str(), found)).collect()
            }
        });
        told.collect::<Vec<_>>().join("; ")
    })?;
    let compiler = Compiler::default().with_funs(natives()).with_global_vars(VARIABLES);
    let filter = compiler.compile(modules).map_err(|errors| {
        let errors = errors.into_iter().flat_map(|(_, errors)| errors);
        let told = errors.map(|(name, undefined)| format!("{}: {}", place(text, name), unknown(name, &undefined)));
        told.collect::<Vec<_>>().join("; ")
    })?;
    Ok((filter, uses))
}

fn wrong(text: &str, expected: &str, found: &str) -> String {
    let found_word: String = found.chars().take_while(|c| !c.is_whitespace()).take(20).collect();
    match found_word.as_str() {
        "" => format!("{}: {expected} is missing", place(text, found)),
        word => format!("{}: {expected} expected, not `{word}`", place(text, found)),
    }
}

/// Where a part of the text begins: line and column, from 1; the column counts characters.
fn place(text: &str, part: &str) -> Place {
    let before = text.get(..span(text, part).start).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
    Place { line, column }
}

struct Place {
    line: usize,
    column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            1 => write!(f, "at character {}", self.column),
            line => write!(f, "at line {line}, character {}", self.column),
        }
    }
}

/// What is said of a name that means nothing, with what was probably meant.
fn unknown(name: &str, undefined: &Undefined) -> String {
    let Undefined::Filter(arguments) = undefined else {
        let variables =
            if name.starts_with('$') { format!("; there are {}", VARIABLES.join(", ")) } else { String::new() };
        return format!("there is no {} {name}{variables}", undefined.as_str());
    };
    let instead = match name {
        "now" => "; the time is $now, in milliseconds",
        "env" => "; a config's text may name ${VARIABLE}s",
        "input" | "inputs" | "debug" | "stderr" | "halt" | "halt_error" => {
            "; an expression sees one record and no more"
        }
        _ => "",
    };
    if !instead.is_empty() {
        return format!("there is no function {name} here{instead}");
    }
    let known: BTreeSet<(String, usize)> = definitions()
        .iter()
        .map(|def| (def.name.to_owned(), def.args.len()))
        .chain(natives().iter().map(|(name, arguments, _)| ((*name).to_owned(), arguments.len())))
        .collect();
    let counts: Vec<String> =
        known.iter().filter(|(known, _)| known == name).map(|(_, count)| count.to_string()).collect();
    if !counts.is_empty() {
        return format!("{name} takes {} arguments, not {arguments}", counts.join(" or "));
    }
    let distance = |known: &str| strsim::damerau_levenshtein(name, known);
    let closest = known.iter().map(|(known, _)| known.as_str()).min_by_key(|known| distance(known));
    let meant = closest.filter(|known| distance(known) * 3 <= name.len().max(known.len()));
    let meant = meant.map_or(String::new(), |known| format!("; did you mean {known}?"));
    format!("there is no function {name}{meant}")
}

/// Refuses what the lexer and the parser would follow too deep. Text in quotes may have brackets of its own.
fn nesting(text: &str) -> Result<(), String> {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > NESTING_MAX {
        return Err(format!("brackets lie {deepest} deep in one another, {NESTING_MAX} are possible"));
    }
    Ok(())
}

/// The variables that the text names, and that it defines no function. What is no token is told by the parser.
fn uses(text: &str) -> Result<Uses, String> {
    let mut uses = Uses::default();
    if let Ok(tokens) = Lexer::new(text).lex() {
        for token in &tokens {
            note(text, token, &mut uses)?;
        }
    }
    Ok(uses)
}

fn note(text: &str, token: &Token<&str>, uses: &mut Uses) -> Result<(), String> {
    match &token.1 {
        Tok::Word if token.0 == "def" => {
            let why = "an expression defines no functions; name a value with `as $name` instead";
            return Err(format!("{}: {why}", place(text, token.0)));
        }
        Tok::Var => match token.0 {
            "$headers" => uses.headers = true,
            "$key" => uses.key = true,
            "$id" => uses.id = true,
            "$origin" => uses.origin = true,
            "$now" => uses.now = true,
            _ => {}
        },
        Tok::Block(tokens) => tokens.iter().try_for_each(|token| note(text, token, uses))?,
        Tok::Str(parts) => {
            for part in parts {
                if let StrPart::Term(token) = part {
                    note(text, token, uses)?;
                }
            }
        }
        Tok::Word | Tok::Fmt | Tok::Num | Tok::Sym => {}
    }
    Ok(())
}
