//! Holds a file against the JSON Schema of its type and finds everything that does not fit, with its place; what does
//! not fit is replaced by a stand-in, so that the rest can still be checked. Never stops at the first problem, never
//! judges one value by another.

use super::document::Document;
use super::formats;
use super::problem::Problem;
use super::variables::{Expanded, Variables, expand};
use serde_json::{Map, Value as Json};
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A walk over one file along a schema.
pub(super) struct Walk<'a> {
    pub(super) document: &'a mut Document,
    /// The schema's root, which `$ref`s start from.
    pub(super) schema: &'a Json,
    pub(super) variables: &'a Variables<'a>,
    /// The config directory, where `file:` paths start.
    pub(super) dir: &'a Path,
    pub(super) problems: &'a mut Vec<Problem>,
    /// How many stand-ins there are: each has a name of its own.
    pub(super) stand_ins: usize,
}

impl<'a> Walk<'a> {
    /// The file as the JSON value that its type is made from.
    pub(super) fn file(mut self, root: &Spanned<DeTable<'_>>) -> Json {
        self.table(root.get_ref(), self.schema, "")
    }

    fn resolve(&self, schema: &'a Json) -> &'a Json {
        let target = schema.get("$ref").and_then(Json::as_str).and_then(|name| name.strip_prefix('#'));
        target.and_then(|pointer| self.schema.pointer(pointer)).unwrap_or(schema)
    }

    fn bad<T>(&mut self, path: &str, why: impl std::fmt::Display) -> Option<T> {
        let problem = self.document.problem(path, why);
        self.report(path, problem)
    }

    fn report<T>(&mut self, path: &str, problem: Problem) -> Option<T> {
        self.problems.push(problem);
        self.document.mark_bad(path);
        None
    }

    /// The value as JSON, `None` where it does not fit.
    fn value(&mut self, value: &Spanned<DeValue<'_>>, schema: &'a Json, path: &str) -> Option<Json> {
        let schema = self.resolve(schema);
        let is_scalar = !matches!(value.get_ref(), DeValue::Array(_) | DeValue::Table(_));
        let is_shown = is_scalar && !formats::is_secret(schema, path);
        self.document.place(path, value.span(), is_shown);
        match value.get_ref() {
            DeValue::String(text) => self.text(text, schema, path),
            DeValue::Integer(number) => {
                let number = i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX);
                self.integer(number, schema, path)
            }
            DeValue::Float(number) => self.float(number.as_str().parse().unwrap_or(f64::NAN), schema, path),
            DeValue::Boolean(truth) => self.boolean(*truth, schema, path),
            DeValue::Datetime(_) => self.bad(path, expected(schema, "a date")),
            DeValue::Array(values) => self.array(values, schema, path),
            DeValue::Table(table) => match tags(schema) {
                Some(tags) => self.tagged(table, &tags, path),
                None if is_type(schema, "object") => Some(self.table(table, schema, path)),
                None => self.bad(path, expected(schema, "a table (a name with dots in it is quoted: \"a.b\" = …)")),
            },
        }
    }

    /// A table with known keys (`properties`) or with any (`additionalProperties`).
    fn table(&mut self, table: &DeTable<'_>, schema: &'a Json, path: &str) -> Json {
        let known = schema.get("properties").and_then(Json::as_object);
        let other = schema.get("additionalProperties").filter(|other| other.is_object());
        let required: Vec<&str> = strings(schema.get("required")).collect();
        let mut json = Map::new();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let path = join(path, name);
            let Some(schema) = known.and_then(|known| known.get(name)).or(other) else {
                self.document.place(&path, key.span(), false);
                let problem = self.document.problem(&path, "is an unknown key");
                let problem = problem.choices(name, known.into_iter().flat_map(Map::keys).map(String::as_str));
                self.report::<()>(&path, problem);
                continue;
            };
            if let Some(value) = self.value(value, schema, &path) {
                json.insert(name.to_owned(), value);
            }
        }
        for name in required.into_iter().filter(|name| !json.contains_key(*name)).collect::<Vec<_>>() {
            let Some(schema) = known.and_then(|known| known.get(name)) else { continue };
            if !table.keys().any(|key| key.get_ref() == name) {
                let what = first_sentence(schema, self.resolve(schema));
                self.bad::<()>(&join(path, name), format_args!("is missing{what}"));
            }
            json.insert(name.to_owned(), self.stand_in(schema, &join(path, name)));
        }
        Json::Object(json)
    }

    /// A table with exactly one key that says what it is, e.g. a step.
    fn tagged(&mut self, table: &DeTable<'_>, tags: &[(&'a str, &'a Json)], path: &str) -> Option<Json> {
        let names = || tags.iter().map(|(name, _)| *name);
        if table.len() != 1 {
            let problem = self.document.problem(path, "must have exactly one key, which says what it is");
            return self.report(path, problem.choices("", names()));
        }
        let (key, value) = table.iter().next()?;
        let name = key.get_ref().as_ref();
        let inner = join(path, name);
        let Some((_, schema)) = tags.iter().find(|(tag, _)| *tag == name) else {
            self.document.place(&inner, key.span(), false);
            let problem = self.document.problem(&inner, "is unknown").choices(name, names());
            return self.report(&inner, problem);
        };
        let value = self.value(value, schema, &inner)?;
        Some(Json::Object(Map::from_iter([(name.to_owned(), value)])))
    }

    fn array(&mut self, values: &[Spanned<DeValue<'_>>], schema: &'a Json, path: &str) -> Option<Json> {
        let Some(items) = schema.get("items").filter(|_| is_type(schema, "array")) else {
            return self.bad(path, expected(schema, "an array"));
        };
        let bound = |name: &str| schema.get(name).and_then(Json::as_u64).and_then(|n| usize::try_from(n).ok());
        let (min, max) = (bound("minItems").unwrap_or(0), bound("maxItems").unwrap_or(usize::MAX));
        if values.len() < min || values.len() > max {
            let wanted = if min == max { format!("{min}") } else { format!("{min} to {max}") };
            return self.bad(path, format_args!("has {} elements, must have {wanted}", values.len()));
        }
        let mut json = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let element = self.value(value, items, &path);
            json.push(element.unwrap_or_else(|| self.stand_in(items, &path)));
        }
        Some(Json::Array(json))
    }

    fn text(&mut self, text: &str, schema: &'a Json, path: &str) -> Option<Json> {
        let Expanded { text, varied } = match expand(text, self.variables) {
            Ok(expanded) => expanded,
            Err(why) => return self.bad(path, why),
        };
        if let Some(choices) = choices(schema) {
            if choices.contains(&text.as_str()) {
                return Some(Json::String(text));
            }
            let problem = self.document.problem(path, "is none of the choices");
            return self.report(path, problem.choices(&text, choices));
        }
        if !is_type(schema, "string") {
            return match text.parse::<i128>() {
                Ok(number) if varied && is_number(schema) => self.integer(number, schema, path),
                _ => match text.parse::<f64>() {
                    Ok(number) if varied && is_type(schema, "number") => self.float(number, schema, path),
                    _ => match text.parse::<bool>() {
                        Ok(truth) if varied && is_type(schema, "boolean") => self.boolean(truth, schema, path),
                        _ => self.bad(path, expected(schema, "a string")),
                    },
                },
            };
        }
        match formats::text(schema, &text, varied, self.dir) {
            Ok(text) => Some(Json::String(text)),
            Err(why) => self.bad(path, why),
        }
    }

    fn integer(&mut self, number: i128, schema: &'a Json, path: &str) -> Option<Json> {
        if !is_number(schema) {
            return if is_type(schema, "string") && schema.get("type").is_some_and(Json::is_array) {
                Some(Json::String(number.to_string()))
            } else {
                self.bad(
                    path,
                    formats::hint(schema, &number.to_string()).unwrap_or_else(|| expected(schema, "a number")),
                )
            };
        }
        let (min, max) = formats::integer_bounds(schema);
        if number < min || number > max {
            let is_open = max == i64::MAX.into();
            let why = if is_open { format!("must be at least {min}") } else { outside(&min, &max) };
            return self.bad(path, why);
        }
        i64::try_from(number).ok().map(Json::from)
    }

    fn float(&mut self, number: f64, schema: &'a Json, path: &str) -> Option<Json> {
        if !is_type(schema, "number") {
            return self.bad(
                path,
                formats::hint(schema, &number.to_string()).unwrap_or_else(|| expected(schema, "a decimal number")),
            );
        }
        if !number.is_finite() {
            return self.bad(path, "must be a finite number");
        }
        let bound = |name: &str, or: f64| schema.get(name).and_then(Json::as_f64).unwrap_or(or);
        let (min, max) = (bound("minimum", f64::MIN), bound("maximum", f64::MAX));
        if !(min..=max).contains(&number) {
            return self.bad(path, outside(&min, &max));
        }
        Some(Json::from(number))
    }

    fn boolean(&mut self, truth: bool, schema: &'a Json, path: &str) -> Option<Json> {
        match (is_type(schema, "boolean"), is_type(schema, "string")) {
            (true, true) => Some(Json::String(truth.to_string())),
            (true, false) => Some(Json::Bool(truth)),
            _ => {
                let hint = formats::hint(schema, &truth.to_string());
                self.bad(path, hint.unwrap_or_else(|| expected(schema, "a truth value")))
            }
        }
    }

    /// A value of the right shape for what has a problem already; it never leaves the check, nor does what is said of it.
    fn stand_in(&mut self, schema: &'a Json, path: &str) -> Json {
        self.document.mark_bad(path);
        let schema = self.resolve(schema);
        self.stand_ins += 1;
        if formats::is_name(schema) {
            return Json::String(format!("stand-in-{}", self.stand_ins));
        }
        let given = schema.get("default").or_else(|| schema.pointer("/examples/0")).or_else(|| schema.get("const"));
        if let Some(given) = given {
            return given.clone();
        }
        if let Some(choice) = choices(schema).and_then(|choices| choices.first().copied()) {
            return Json::from(choice);
        }
        if let Some((name, inner)) = tags(schema).and_then(|tags| tags.first().copied()) {
            return Json::Object(Map::from_iter([(name.to_owned(), self.stand_in(inner, path))]));
        }
        if is_type(schema, "object") {
            let property = |name: &str| Some((name.to_owned(), schema.get("properties")?.get(name)?));
            let required: Vec<_> = strings(schema.get("required")).filter_map(property).collect();
            return required.into_iter().map(|(name, inner)| (name, self.stand_in(inner, path))).collect();
        }
        if let (true, Some(items)) = (is_type(schema, "array"), schema.get("items")) {
            let count = schema.get("minItems").and_then(Json::as_u64).unwrap_or(0);
            return (0..count).map(|_| self.stand_in(items, path)).collect();
        }
        match schema.get("type").and_then(Json::as_str) {
            Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| Json::from(0)),
            Some("boolean") => Json::Bool(false),
            _ => Json::from("stand-in"),
        }
    }
}

/// A key's path inside a table's; one with a dot in it is quoted, as TOML does it.
pub(super) fn join(path: &str, name: &str) -> String {
    let bare = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let name = if bare { name.to_owned() } else { format!("{name:?}") };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

fn is_type(schema: &Json, name: &str) -> bool {
    match schema.get("type") {
        Some(Json::String(one)) => one == name,
        Some(Json::Array(any)) => any.iter().any(|one| one == name),
        _ => false,
    }
}

fn is_number(schema: &Json) -> bool {
    (is_type(schema, "integer") && !is_type(schema, "string")) || is_type(schema, "number")
}

fn strings(value: Option<&Json>) -> impl Iterator<Item = &str> {
    value.and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
}

/// The words of an enumeration that can be chosen.
pub(super) fn choices(schema: &Json) -> Option<Vec<&str>> {
    if schema.get("enum").is_some() {
        return Some(strings(schema.get("enum")).collect());
    }
    let variants = schema.get("oneOf")?.as_array()?;
    variants.iter().map(|variant| variant.get("const")?.as_str()).collect()
}

/// The names and settings of an enumeration whose variants have settings: `{ NAME = { … } }`.
pub(super) fn tags(schema: &Json) -> Option<Vec<(&str, &Json)>> {
    let variants = schema.get("oneOf")?.as_array()?;
    variants
        .iter()
        .map(|variant| {
            let (name, inner) = variant.get("properties")?.as_object()?.iter().next()?;
            Some((name.as_str(), inner))
        })
        .collect()
}

/// What was expected in place of what was found.
fn expected(schema: &Json, found: &str) -> String {
    let wanted = match schema.get("type") {
        Some(Json::String(one)) => one.as_str(),
        _ if tags(schema).is_some() => "object",
        _ => "string",
    };
    let wanted = match wanted {
        "object" if tags(schema).is_some() => "a table with one key: { NAME = { … } }",
        "object" => "a table",
        "array" => "an array",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        _ => "a string",
    };
    format!("must be {wanted}, is {found}")
}

fn outside<N: std::fmt::Display + PartialEq>(min: &N, max: &N) -> String {
    if min == max { format!("must be {min}") } else { format!("must be {min} to {max}") }
}

/// What a missing key is for, from its documentation.
fn first_sentence(schema: &Json, resolved: &Json) -> String {
    let text = schema.get("description").or_else(|| resolved.get("description")).and_then(Json::as_str);
    let sentence = text.and_then(|text| text.split(['.', '\n', ':']).next());
    sentence.map_or_else(String::new, |sentence| format!(" ({sentence})"))
}
