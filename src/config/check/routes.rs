//! What routes must agree on, across all pipelines. Never serves one.

use super::{At, BODY_MAX, Found, Loaded, chat, outbox, pages};
use crate::config::document::Document;
use crate::config::pipeline::PipelineFile;
use crate::config::route::{Method, Reply, RouteFile, fields, follows_requests, varies};
use crate::config::text::{ContentFrom, KeyFrom, Name, RouteKeyFrom};
use crate::config::units::Period;
use crate::steps::StepContext;
use bulkhead_core::record::ID_HEADER;
use std::path::Path;

pub(super) fn check(found: &mut Found, loaded: &Loaded, dir: &Path) {
    let mut earlier: Vec<(&Document, &RouteFile)> = Vec::new();
    for (document, file) in &loaded.pipelines {
        for (index, route) in file.route.iter().enumerate() {
            let path = format!("route[{index}]");
            let mut at = At { document, found };
            kind(&mut at, &path, route, file);
            for (key, results) in [("results", &route.results), ("events", &route.events)] {
                let name = results.as_ref().and_then(|results| results.pipeline.as_ref());
                pipeline_exists(found, loaded, document, &format!("{path}.{key}.pipeline"), name);
            }
            let mut at = At { document, found };
            keys(&mut at, &path, route, file);
            idempotency(&mut at, &path, route, file, loaded.daemon.1.jobs.ttl);
            outbox::check(&mut at, &path, route, file, &loaded.daemon.1.http);
            let clash =
                earlier.iter().find(|(_, other)| other.method == route.method && other.path.overlaps(&route.path));
            if let Some((other, first)) = clash {
                let why = format_args!(
                    "{} {} of {} answers the same requests",
                    first.method.as_str(),
                    first.path,
                    other.name
                );
                found.at(document, &format!("{path}.path"), why);
            }
            earlier.push((document, route));
        }
    }
    pages::check(found, &earlier, dir);
    if loaded.daemon.1.http.docs {
        pages::apart_from_docs(found, &earlier);
    }
}

/// A route does one thing, with the method for it.
fn kind(at: &mut At<'_>, path: &str, route: &RouteFile, file: &PipelineFile) {
    let kinds = [
        ("produce", route.produce.is_some()),
        ("results", route.results.is_some()),
        ("events", route.events.is_some()),
        ("page", route.page.is_some()),
        ("chat", route.chat.is_some()),
    ];
    let does: Vec<_> = kinds.iter().filter(|(_, is_there)| *is_there).map(|(kind, _)| *kind).collect();
    match does[..] {
        ["produce"] => produces(at, path, route),
        ["results" | "events"] => answers_for_jobs(at, path, route),
        ["page"] => shows_a_page(at, path, route),
        ["chat"] => chat::check(at, path, route, file),
        [] => {
            let choices = kinds.map(|(kind, _)| format!("{kind} = {{ … }}")).join(" or ");
            at.at(path, format_args!("does nothing: give it {choices}"));
        }
        _ => at.at(path, format_args!("has more than one of {}: make a route of each", does.join(" and "))),
    }
    if let Some(wait_max) = route.wait_max {
        at.some(&format!("{path}.wait_max"), wait_max);
    }
}

/// How a route that waits tells how its job ended.
fn told(at: &mut At<'_>, path: &str, route: &RouteFile) {
    let Some(answer) = &route.answer else { return };
    if route.reply != Some(Reply::Result) {
        at.at(&format!("{path}.answer"), "is for a route that waits for its job's end: reply = \"result\"");
    }
    for (key, why) in answer.problems() {
        at.at(&format!("{path}.answer.{key}"), why);
    }
}

/// What the steps at the edge of a pipeline must be.
pub(super) fn steps(at: &mut At<'_>, file: &PipelineFile, context: StepContext<'_>) {
    for (index, route) in file.route.iter().enumerate() {
        for (position, step) in route.steps.iter().enumerate() {
            let path = format!("route[{index}].steps[{position}].{}", step.name());
            if !step.is_edge() {
                at.at(&path, "does not run in a route, where the record is not accepted yet; put it into a [[stage]]");
                continue;
            }
            for why in step.check(context) {
                at.at(&path, why);
            }
        }
    }
}

fn produces(at: &mut At<'_>, path: &str, route: &RouteFile) {
    let Some(produce) = &route.produce else { return };
    if let Some(deadline) = produce.deadline {
        at.some(&format!("{path}.produce.deadline"), deadline);
    }
    if !route.path.variables().is_empty() {
        at.at(&format!("{path}.path"), "a route that produces has no variables: nothing would use them");
    }
    if produce.body_max.is_some_and(|body_max| body_max.0 > BODY_MAX.0) {
        let why = format_args!("must be at most \"{BODY_MAX}\": brokers take no request above 100 MiB");
        at.at(&format!("{path}.produce.body_max"), why);
    }
    told(at, path, route);
    for (field, why) in fields::problems(&produce.fields) {
        let dot = if field.is_empty() { "" } else { "." };
        at.at(&format!("{path}.produce.fields{dot}{field}"), why);
    }
    if produce.content.0 == ContentFrom::Fields && produce.fields.is_empty() {
        at.at(&format!("{path}.produce.content"), "is the route's fields, and it has none; give it fields = { … }");
    }
    if route.method == Method::Get {
        at.at(&format!("{path}.method"), "a route that produces is no GET; valid: \"POST\", \"PUT\"");
    }
    if produce.content.0 == ContentFrom::Events && !matches!(route.reply, None | Some(Reply::Accepted)) {
        let why = "must be \"accepted\" beside content = \"events\": several events have no one end";
        at.at(&format!("{path}.reply"), why);
    }
}

/// What only a route that produces has.
fn no_more(at: &mut At<'_>, path: &str, route: &RouteFile) {
    for (key, is_there) in [
        ("reply", route.reply.is_some()),
        ("answer", route.answer.is_some()),
        ("idempotency", route.idempotency.is_some()),
        ("steps", !route.steps.is_empty()),
    ] {
        if is_there {
            at.at(&format!("{path}.{key}"), "only a route that produces has one");
        }
    }
}

fn answers_for_jobs(at: &mut At<'_>, path: &str, route: &RouteFile) {
    if route.path.variables().len() != 1 {
        at.at(&format!("{path}.path"), "needs exactly one variable, the job's id: /api/results/{jobId}");
    }
    if route.method != Method::Get {
        at.at(&format!("{path}.method"), "a route that answers for jobs is a GET");
    }
    no_more(at, path, route);
    if route.events.is_some() && route.wait_max.is_some() {
        at.at(&format!("{path}.wait_max"), "a stream does not wait; http.stream_max bounds it");
    }
}

fn shows_a_page(at: &mut At<'_>, path: &str, route: &RouteFile) {
    if !route.path.variables().is_empty() {
        at.at(&format!("{path}.path"), "a page has no variables: nothing would use them");
    }
    if route.method != Method::Get {
        at.at(&format!("{path}.method"), "a page is a GET");
    }
    no_more(at, path, route);
    if route.wait_max.is_some() {
        at.at(&format!("{path}.wait_max"), "a page does not wait");
    }
}

fn pipeline_exists(found: &mut Found, loaded: &Loaded, document: &Document, path: &str, name: Option<&Name>) {
    let Some(Name(name)) = name else { return };
    let names = || loaded.pipelines.iter().map(|(_, file)| file.pipeline.name.0.as_str());
    if loaded.incomplete || document.is_bad(path) || names().any(|known| known == name) {
        return;
    }
    let known = loaded.pipelines.iter().filter(|(document, _)| !document.is_bad("pipeline.name"));
    let known: Vec<_> = known.map(|(_, file)| file.pipeline.name.0.as_str()).collect();
    found.problems.push(document.problem(path, "there is no such pipeline").choices(name, known));
}

/// Dedupe holds within a partition: what has one ledger key must have one record key.
fn keys(at: &mut At<'_>, path: &str, route: &RouteFile, file: &PipelineFile) {
    let (Some(produce), Some(ledger)) = (&route.produce, &file.pipeline.ledger) else { return };
    let follows = match (&produce.key.0, &ledger.key.0) {
        (_, KeyFrom::Key) => true,
        (RouteKeyFrom::Id, KeyFrom::Header(name)) => name == ID_HEADER,
        (RouteKeyFrom::Header(key), KeyFrom::Header(name)) => key.eq_ignore_ascii_case(name),
        (RouteKeyFrom::Jq(text), KeyFrom::Header(name)) => !varies(text) && name == ID_HEADER,
    };
    if !follows {
        let why = format_args!(
            "records of one ledger key ({}) may get different keys ({}), so lie in different partitions, where they \
             are not recognised as the same",
            ledger.key, produce.key
        );
        at.warn(&format!("{path}.produce"), why);
    }
}

/// What a route says of idempotency keys, the pipeline's ledger keeps.
fn idempotency(at: &mut At<'_>, path: &str, route: &RouteFile, file: &PipelineFile, jobs: Period) {
    let (Some(produce), Some(keys)) = (&route.produce, &route.idempotency) else { return };
    if keys.required && keys.derive.is_some() {
        at.at(
            &format!("{path}.idempotency.required"),
            "refuses nothing beside derive, which gives every request a key",
        );
    }
    let Some(ledger) = file.pipeline.ledger.as_ref().filter(|ledger| follows_requests(&ledger.key.0, &produce.key.0))
    else {
        let why = format_args!(
            "needs a ledger that goes by the request's key: pipeline.ledger = {{ key = \"header:{ID_HEADER}\" }}, and \
             produce.key = \"id\" or a jq expression over the payload alone"
        );
        return at.at(&format!("{path}.idempotency"), why);
    };
    if jobs.0 < ledger.ttl.0 {
        let why = format_args!(
            "ledger.ttl ({}) is above jobs.ttl ({jobs}): a request repeated in between is known, but what became of it is \
             forgotten",
            ledger.ttl
        );
        at.warn(&format!("{path}.idempotency"), why);
    }
}
