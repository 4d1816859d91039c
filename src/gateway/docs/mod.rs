//! The API's own pages: its description, Swagger UI and ReDoc, all carried in the binary. Never loads anything from
//! elsewhere. `scripts/get-api-docs.sh` says where the two come from.

use super::files::StaticFile;
use super::openapi::{self, About};
use super::route::{Action, Route};
use actix_web::http::Method;
use std::sync::Arc;

/// The paths that are taken where the docs are on.
pub const PATHS: [&str; 8] = [
    "/openapi.json",
    "/docs",
    "/docs/swagger-ui-bundle.js",
    "/docs/swagger-ui.css",
    "/docs/start.js",
    "/redoc",
    "/redoc/redoc.standalone.js",
    "/redoc/start.js",
];
/// Both viewers write styles into the page; ReDoc searches in a worker of its own making. Scripts are ours alone.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      font-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'self'; \
                      frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// The routes that show these routes.
#[must_use]
pub fn routes(routes: &[Route], about: &About) -> Vec<Route> {
    let description = format!("{:#}\n", openapi::document(routes, about));
    let page = |text: &'static str| StaticFile::new(text, HTML).allowed(POLICY);
    let script = |text: &'static str| StaticFile::new(text, SCRIPT);
    let packed = |content: &'static [u8], media| StaticFile::new(content, media).gzipped();
    let files = [
        StaticFile::new(description, "application/json"),
        page(include_str!("swagger.html")),
        packed(include_bytes!("assets/swagger-ui-bundle.js.gz"), SCRIPT),
        packed(include_bytes!("assets/swagger-ui.css.gz"), STYLE),
        script(include_str!("swagger.js")),
        page(include_str!("redoc.html")),
        packed(include_bytes!("assets/redoc.standalone.js.gz"), SCRIPT),
        script(include_str!("redoc.js")),
    ];
    let route = |(path, file): (&str, StaticFile)| Route {
        method: Method::GET,
        path: path.to_owned(),
        summary: None,
        action: Action::File(Arc::new(file)),
    };
    PATHS.into_iter().zip(files).map(route).collect()
}
