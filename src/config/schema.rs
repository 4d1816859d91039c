//! The JSON Schema of the config files, made from their types: what a file is checked against and what editors complete
//! by. Never written by hand.

use super::daemon::Daemon;
use super::pipeline::PipelineFile;
use crate::vision::describe::Description;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema};
use serde_json::{Value as Json, json};

/// The schema of `bulkhead.toml`.
#[must_use]
pub fn daemon() -> Json {
    of::<Daemon>()
}

/// The schema of a file in `pipelines/`.
#[must_use]
pub fn pipeline() -> Json {
    of::<PipelineFile>()
}

/// The schema of a model's description.
#[must_use]
pub fn model() -> Json {
    of::<Description>()
}

/// The schema of both, for editors: a file is one or the other.
#[must_use]
pub fn both() -> Json {
    let (mut daemon, mut pipeline) = (daemon(), pipeline());
    let mut definitions = serde_json::Map::new();
    for schema in [&mut daemon, &mut pipeline] {
        let fields = schema.as_object_mut().expect("a struct's schema is an object");
        fields.remove("$schema");
        if let Some(Json::Object(own)) = fields.remove("$defs") {
            definitions.extend(own);
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "bulkhead's configuration: bulkhead.toml, or a file in pipelines/",
        "oneOf": [daemon, pipeline],
        "$defs": definitions,
    })
}

pub(super) fn of<T: JsonSchema>() -> Json {
    let settings = SchemaSettings::draft2020_12().with_transform(NoNull);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// TOML has no null: what may be absent is not required, and that is all.
#[derive(Clone, Debug)]
struct NoNull;

impl Transform for NoNull {
    fn transform(&mut self, schema: &mut Schema) {
        let is_null = |schema: &Json| schema.get("type").is_some_and(|t| t == "null");
        if let Some(fields) = schema.as_object_mut() {
            if let Some(Json::Array(types)) = fields.get_mut("type") {
                types.retain(|one| one != "null");
                if let [one] = &types[..] {
                    let one = one.clone();
                    fields.insert("type".to_owned(), one);
                }
            }
            if let Some(Json::Array(any)) = fields.get_mut("anyOf") {
                any.retain(|one| !is_null(one));
                if let [Json::Object(one)] = &any[..] {
                    let one = one.clone();
                    fields.remove("anyOf");
                    for (name, value) in one {
                        fields.entry(name).or_insert(value);
                    }
                }
            }
            if fields.get("default").is_some_and(Json::is_null) {
                fields.remove("default");
            }
        }
        transform_subschemas(self, schema);
    }
}

/// A schema as it is kept in a file.
#[must_use]
pub fn text(schema: &Json) -> String {
    format!("{schema:#}\n")
}
