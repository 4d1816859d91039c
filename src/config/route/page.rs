//! Pages as a route's `page` says them: a file of the config directory and what it links to. Never serves one, and never
//! reads a file that the route does not name.

use crate::config::text::text_type;
use crate::config::units::{Period, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::str::FromStr;

/// What files can be served, by the ending of their names.
const MEDIA: &[(&str, &str)] = &[
    ("css", "text/css; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/x-icon"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("txt", "text/plain; charset=utf-8"),
    ("webmanifest", "application/manifest+json"),
    ("webp", "image/webp"),
    ("woff2", "font/woff2"),
];

text_type! {
    /// A file below the config directory: letters, digits, `-`, `.`, `_` and `/`; its ending says what it is.
    PagePath(String), format = "page-path", example = "pages/classify.html"
}

impl FromStr for PagePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let is_name = |name: &str| !name.is_empty() && !name.starts_with('.') && name.chars().all(legal);
        if text.len() > 255 || !text.split('/').all(is_name) {
            return Err(
                "a page's file lies below the config directory, e.g. \"pages/classify.html\": letters, digits, \
                        - . _ and '/', no name that begins with '.'"
                    .into(),
            );
        }
        let path = Self(text.to_owned());
        if path.media().is_none() {
            let endings: Vec<_> = MEDIA.iter().map(|(ending, _)| format!(".{ending}")).collect();
            return Err(format!("its ending says what a file is; served are {}", endings.join(", ")));
        }
        Ok(path)
    }
}

impl fmt::Display for PagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PagePath {
    /// Its media type, with the charset of text; one that was parsed has one.
    #[must_use]
    pub fn media(&self) -> Option<&'static str> {
        let (_, ending) = self.0.rsplit_once('.')?;
        MEDIA.iter().find(|(known, _)| *known == ending).map(|(_, media)| *media)
    }

    /// The path under which a file is served that a page links to.
    #[must_use]
    pub fn url(&self) -> String {
        format!("/{}", self.0)
    }
}

/// A page that is served as it is. Its files are read once, when the daemon starts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PageFile {
    /// The page, from the config directory.
    pub file: PagePath,
    /// The files that it links to, each served under its own path: `pages/classify.css` at `/pages/classify.css`. Nothing
    /// else of the config directory is. Pages may share them.
    #[serde(default)]
    pub assets: Vec<PagePath>,
    /// How long a browser may go by what it has without asking. Absent: it asks each time, and is told when nothing changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Period>,
    /// The largest that one of its files may be.
    #[serde(default = "file_max")]
    pub file_max: Size,
}

const fn file_max() -> Size {
    Size::mib(1)
}

impl PageFile {
    /// The page and what it links to.
    pub fn files(&self) -> impl Iterator<Item = &PagePath> {
        std::iter::once(&self.file).chain(&self.assets)
    }

    /// The content of one of its files.
    ///
    /// # Errors
    /// It is no file, cannot be read, or is too large.
    pub fn read(&self, dir: &Path, path: &PagePath) -> Result<Vec<u8>, String> {
        let unreadable = |why: std::io::Error| format!("{}: {why}", dir.join(&path.0).display());
        let file = File::open(dir.join(&path.0)).map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(format!("{} is no file", dir.join(&path.0).display()));
        }
        let mut content = Vec::new();
        file.take(self.file_max.0.saturating_add(1)).read_to_end(&mut content).map_err(unreadable)?;
        if content.len() as u64 > self.file_max.0 {
            return Err(format!("{} is larger than page.file_max ({})", dir.join(&path.0).display(), self.file_max));
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_cannot_lie_outside_the_config_directory() {
        for bad in
            ["", "/etc/hosts.txt", "../a.html", "pages/../a.html", "pages//a.html", "pages/.hidden.html", "a b.html"]
        {
            assert!(bad.parse::<PagePath>().is_err(), "{bad:?}");
        }
        for bad in ["pages/classify", "pages/classify.toml", "models/digits.onnx"] {
            assert!(bad.parse::<PagePath>().expect_err("no such ending").contains(".html"), "{bad:?}");
        }
        let page: PagePath = "pages/classify.html".parse().expect("a page");
        assert_eq!((page.media(), page.url()), (Some("text/html; charset=utf-8"), "/pages/classify.html".to_owned()));
    }
}
