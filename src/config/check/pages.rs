//! Whether what pages consist of is there, and has its paths to itself. Never keeps what it reads.

use super::{At, Found};
use crate::config::document::Document;
use crate::config::route::page::{PageFile, PagePath};
use crate::config::route::{Method, RouteFile};
use crate::config::text::RoutePath;
use crate::gateway::docs;
use std::collections::BTreeMap;
use std::path::Path;

pub(super) fn check(found: &mut Found, routes: &[(&Document, &RouteFile)], dir: &Path) {
    for (path, document, route) in numbered(routes) {
        let Some(page) = &route.page else { continue };
        let mut at = At { document, found };
        files(&mut at, &path, page, dir);
        for (index, asset) in page.assets.iter().enumerate() {
            taken(&mut at, &format!("{path}.page.assets[{index}]"), asset, routes);
        }
    }
}

/// The API's own pages have their paths to themselves.
pub(super) fn apart_from_docs(found: &mut Found, routes: &[(&Document, &RouteFile)]) {
    for (path, document, route) in numbered(routes).filter(|(_, _, route)| route.method == Method::Get) {
        let docs = docs::PATHS.into_iter().find(|docs| route.path.overlaps(&RoutePath((*docs).to_owned())));
        if let Some(docs) = docs {
            let why = format_args!("GET {docs} is the API's own description; http.docs = false makes room");
            found.at(document, &format!("{path}.path"), why);
        }
    }
}

/// Each route with its key in its file.
fn numbered<'a>(
    routes: &'a [(&'a Document, &'a RouteFile)],
) -> impl Iterator<Item = (String, &'a Document, &'a RouteFile)> {
    let mut numbers = BTreeMap::<&str, usize>::new();
    routes.iter().map(move |(document, route)| {
        let number = numbers.entry(document.name.as_str()).or_default();
        *number += 1;
        (format!("route[{}]", *number - 1), *document, *route)
    })
}

fn files(at: &mut At<'_>, path: &str, page: &PageFile, dir: &Path) {
    let assets = (0..page.assets.len()).map(|index| format!("{path}.page.assets[{index}]"));
    for (key, file) in std::iter::once(format!("{path}.page.file")).chain(assets).zip(page.files()) {
        if !at.document.is_bad(&key)
            && let Err(why) = page.read(dir, file)
        {
            at.at(&key, why);
        }
    }
    if !page.file.media().is_some_and(|media| media.starts_with("text/html")) {
        at.at(&format!("{path}.page.file"), "a page is an .html file; what it links to are its assets");
    }
}

/// An asset has a path of its own: one that a route answers would never be seen.
fn taken(at: &mut At<'_>, path: &str, asset: &PagePath, routes: &[(&Document, &RouteFile)]) {
    let url = RoutePath(asset.url());
    let mut gets = routes.iter().filter(|(_, route)| route.method == Method::Get);
    if let Some((document, route)) = gets.find(|(_, route)| route.path.overlaps(&url)) {
        at.at(path, format_args!("{url} is its path, which GET {} of {} answers", route.path, document.name));
    }
}
