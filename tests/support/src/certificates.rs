//! An authority and a server's certificate that it vouches for, made by `openssl` in a temporary folder for this machine alone.
//! Never used twice.

use crate::scratch::scratch;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

const NAMES: &str = "subjectAltName=IP:127.0.0.1,DNS:localhost\n";
const KEY: [&str; 6] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-batch"];

/// See the module; dropping it removes them.
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// New ones, good for a day, for `127.0.0.1` and `localhost`.
    ///
    /// # Panics
    /// When there is no `openssl`.
    #[must_use]
    pub fn make() -> Self {
        let made = Self { folder: scratch("certificates") };
        fs::write(made.path("names"), NAMES).expect("a temporary folder can be written");
        let authority = ["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=an authority of this test", "-days", "1"];
        made.openssl(&[&["req", "-x509"], &KEY[..], &authority].concat());
        made.openssl(
            &[&["req"], &KEY[..], &["-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=a server"]].concat(),
        );
        let signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "names"];
        made.openssl(&[&["x509", "-req", "-in", "server.csr", "-out", "server.pem"], &signed[..]].concat());
        let text = |name: &str| fs::read_to_string(made.path(name)).expect("it was made");
        fs::write(made.path("both.pem"), text("server.key") + &text("server.pem")).expect("it can be written");
        made
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The server's certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.path("server.pem")
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.path("server.key")
    }

    /// Both in one file.
    #[must_use]
    pub fn both(&self) -> PathBuf {
        self.path("both.pem")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn openssl(&self, args: &[&str]) {
        let told = Command::new("openssl").args(args).current_dir(self.folder.path()).output();
        let told = told.expect("openssl runs: `make setup` installs it");
        assert!(told.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&told.stderr));
    }
}
