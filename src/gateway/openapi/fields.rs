//! What the API's description says of a route's fields, and of how it tells of its jobs' ends. Never reads a request.

use super::super::answer::Answers;
use super::super::fields::Field;
use super::super::route::Accept;
use serde_json::{Map, Value, json};

/// The parameters of fields that the query may bring. Where a form may bring it as well, the query need not.
pub(super) fn parameters(accept: &Accept) -> Vec<Value> {
    let queried = accept.fields.iter().filter(|field| field.in_query);
    let parameter = |field: &Field| {
        let is_required = field.default.is_none() && !field.in_form;
        json!({ "in": "query", "name": field.name, "required": is_required, "schema": schema(field) })
    };
    queried.map(parameter).collect()
}

/// The fields that a form may bring, as properties of it.
pub(super) fn properties(accept: &Accept) -> Map<String, Value> {
    let formed = accept.fields.iter().filter(|field| field.in_form);
    formed.map(|field| (field.name.clone(), schema(field))).collect()
}

fn schema(field: &Field) -> Value {
    let mut schema = json!({ "type": "string", "maxLength": field.bytes_max });
    if let Some((pattern, _)) = &field.pattern {
        schema["pattern"] = pattern.as_str().into();
    }
    if let Some(default) = &field.default {
        schema["default"] = default.as_str().into();
    }
    schema
}

/// The content of the answer to a job that is done.
pub(super) fn done(answers: &Answers) -> Value {
    if answers.result_alone {
        return json!({ "application/json": { "schema": {} }, "text/plain": { "schema": { "type": "string" } } });
    }
    json!({ "application/json": { "schema": { "$ref": "#/components/schemas/Job" } } })
}
