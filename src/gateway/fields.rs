//! A route's fields: taken from the URL's query and from forms, each at most once and as the route says. Never keeps one that the
//! route does not name, and never reads more of one than it may be long.

use super::problem::Problem;
use actix_web::HttpRequest;
use actix_web::web::Query;
use jsonschema::Validator;
use std::fmt;
use std::sync::Arc;

/// Characters of a client's text that are repeated to it.
const QUOTED_MAX: usize = 100;

/// One field of a route.
#[derive(Clone)]
pub struct Field {
    /// Its name, which is the record's header's, too.
    pub name: String,
    /// Whether the query may bring it.
    pub in_query: bool,
    /// Whether a form may.
    pub in_form: bool,
    /// What it is where neither does; `None`: one must.
    pub default: Option<String>,
    /// What it must look like: the pattern, and what tells whether a text has it.
    pub pattern: Option<(String, Arc<Validator>)>,
    /// How many bytes it may have.
    pub bytes_max: usize,
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Field").field("name", &self.name).field("default", &self.default).finish_non_exhaustive()
    }
}

/// Names and values as a client brought them.
pub(super) type Pairs = Vec<(String, String)>;

/// What the URL's query says.
///
/// # Errors
/// 400.
pub(super) fn in_query(request: &HttpRequest) -> Result<Pairs, Problem> {
    pairs(request.query_string(), "The URL's query")
}

/// What a body of the type `application/x-www-form-urlencoded` says.
///
/// # Errors
/// 400.
pub(super) fn in_form(body: &[u8]) -> Result<Pairs, Problem> {
    pairs(&String::from_utf8_lossy(body), "The form")
}

fn pairs(text: &str, what: &str) -> Result<Pairs, Problem> {
    let read = Query::<Pairs>::from_query(text);
    let bad = |why| Problem::bad_request("bad-form", "Bad form", format!("{what} cannot be read: {why}."));
    read.map(Query::into_inner).map_err(bad)
}

/// The route's fields as the request has them, in the order of the route.
///
/// # Errors
/// 400, with the field's name and what would be right.
pub(super) fn take(fields: &[Field], query: &Pairs, form: &Pairs) -> Result<Pairs, Problem> {
    fields.iter().map(|field| Ok((field.name.clone(), value(field, query, form)?))).collect()
}

fn value(field: &Field, query: &Pairs, form: &Pairs) -> Result<String, Problem> {
    let name = &field.name;
    let queried = query.iter().filter(|_| field.in_query);
    let formed = form.iter().filter(|_| field.in_form);
    let mut given = queried.chain(formed).filter(|(given, _)| given == name).map(|(_, value)| value);
    let (first, second) = (given.next(), given.next());
    let bad = |code, title, why: String| Err(Problem::bad_request(code, title, format!("The field {name:?} {why}.")));
    if second.is_some() {
        return bad("repeated-field", "Repeated field", "comes more than once".to_owned());
    }
    let Some(value) = first.or(field.default.as_ref()) else {
        let places = [(field.in_query, "the URL's query"), (field.in_form, "a form")];
        let places: Vec<&str> = places.into_iter().filter_map(|(may, place)| may.then_some(place)).collect();
        return bad("missing-field", "Missing field", format!("is missing; it comes in {}", places.join(" or ")));
    };
    if value.len() > field.bytes_max {
        let why = format!("has {} bytes; at most {} are taken", value.len(), field.bytes_max);
        return bad("bad-field", "Bad field", why);
    }
    match &field.pattern {
        Some((pattern, validator)) if !validator.is_valid(&value.as_str().into()) => {
            let shown: String = value.chars().take(QUOTED_MAX).collect();
            bad("bad-field", "Bad field", format!("is {shown:?}, which is not of the form {pattern}"))
        }
        _ => Ok(value.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonschema::PatternOptions;

    fn field(name: &str) -> Field {
        let pattern = "^[a-z_]{1,20}$";
        let options = jsonschema::options().with_pattern_options(PatternOptions::regex());
        let validator = options.build(&serde_json::json!({ "pattern": pattern })).expect("it is one");
        let pattern = Some((pattern.to_owned(), Arc::new(validator)));
        Field { name: name.to_owned(), in_query: true, in_form: true, default: None, pattern, bytes_max: 16 }
    }

    fn taken(field: &Field, query: &str, form: &str) -> Result<String, String> {
        let pairs = |text| in_form(str::as_bytes(text)).expect("it is a form");
        take(std::slice::from_ref(field), &pairs(query), &pairs(form))
            .map(|mut taken| taken.remove(0).1)
            .map_err(|why| why.detail)
    }

    #[test]
    fn a_field_comes_from_one_place_or_is_what_it_is_by_default() {
        let dag = field("dag_id");
        assert_eq!(taken(&dag, "dag_id=a_b&other=1", ""), Ok("a_b".to_owned()));
        assert_eq!(taken(&dag, "", "dag_id=a%5Fb"), Ok("a_b".to_owned()));
        let with_default = Field { default: Some("plain".to_owned()), ..dag.clone() };
        assert_eq!(taken(&with_default, "x=1", ""), Ok("plain".to_owned()));
        let fixed = Field { in_query: false, in_form: false, ..with_default };
        assert_eq!(taken(&fixed, "dag_id=a", "dag_id=b"), Ok("plain".to_owned()), "nobody can bring it");
    }

    #[test]
    fn what_is_wrong_with_a_field_is_told() {
        let dag = field("dag_id");
        for (query, form, why) in [
            ("", "", "The field \"dag_id\" is missing; it comes in the URL's query or a form."),
            ("dag_id=a&dag_id=b", "", "The field \"dag_id\" comes more than once."),
            ("dag_id=a", "dag_id=a", "The field \"dag_id\" comes more than once."),
            ("dag_id=", "", "The field \"dag_id\" is \"\", which is not of the form ^[a-z_]{1,20}$."),
            ("dag_id=../x", "", "The field \"dag_id\" is \"../x\", which is not of the form ^[a-z_]{1,20}$."),
            ("dag_id=aaaaaaaaaaaaaaaaa", "", "The field \"dag_id\" has 17 bytes; at most 16 are taken."),
        ] {
            assert_eq!(taken(&dag, query, form), Err(why.to_owned()));
        }
    }
}
