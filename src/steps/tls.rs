//! TLS to systems outside: which authorities are trusted. Never trusts a certificate that names another host, and never goes on
//! without encryption where it was asked for.

use native_tls::{Certificate, TlsConnector};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// `{}` trusts the system's authorities, `{ ca = "ca.pem" }` those of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// A PEM file, relative to the config directory, with the certificates of the authorities that are trusted in place of the
    /// system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// Authorities that are trusted in place of the system's.
pub(super) struct Authorities(String);

impl Tls {
    /// The authorities of its file; `None` for the system's.
    ///
    /// # Errors
    /// The file cannot be read, or has no certificates in it.
    pub(super) fn authorities(&self, dir: &Path) -> Result<Option<Authorities>, String> {
        let Some(ca) = &self.ca else { return Ok(None) };
        let pem = fs::read_to_string(dir.join(ca)).map_err(|why| format!("tls.ca: {ca:?} cannot be read: {why}"))?;
        let authorities = Authorities(pem);
        if authorities.certificates().next().is_none() {
            return Err(format!("tls.ca: {ca:?} has no certificate ({BEGIN} …) in it"));
        }
        for certificate in authorities.certificates() {
            Certificate::from_pem(certificate.as_bytes())
                .map_err(|why| format!("tls.ca: {ca:?} has a certificate that cannot be read: {why}"))?;
        }
        Ok(Some(authorities))
    }

    /// What makes connections that trust them.
    ///
    /// # Errors
    /// As [`Tls::authorities`], or TLS cannot be had here.
    pub(super) fn connector(&self, dir: &Path) -> Result<TlsConnector, String> {
        let mut builder = TlsConnector::builder();
        if let Some(authorities) = self.authorities(dir)? {
            builder.disable_built_in_roots(true);
            for certificate in authorities.certificates() {
                let certificate = Certificate::from_pem(certificate.as_bytes()).map_err(|why| why.to_string())?;
                builder.add_root_certificate(certificate);
            }
        }
        builder.build().map_err(|why| format!("tls: {why}"))
    }

    /// A client's builder that trusts them.
    ///
    /// # Errors
    /// As [`Tls::authorities`].
    pub(super) fn trusting(
        &self,
        dir: &Path,
        client: reqwest::ClientBuilder,
    ) -> Result<reqwest::ClientBuilder, String> {
        let Some(authorities) = self.authorities(dir)? else { return Ok(client) };
        authorities.certificates().try_fold(client.tls_built_in_root_certs(false), |client, certificate| {
            let certificate = reqwest::Certificate::from_pem(certificate.as_bytes()).map_err(|why| why.to_string())?;
            Ok(client.add_root_certificate(certificate))
        })
    }
}

impl Authorities {
    /// Their file.
    pub(super) fn pem(&self) -> &str {
        &self.0
    }

    /// Each certificate of it.
    fn certificates(&self) -> impl Iterator<Item = &str> {
        self.0.split_inclusive(END).filter_map(|block| block.find(BEGIN).map(|start| &block[start..]))
    }
}
