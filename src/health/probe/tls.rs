//! TLS, with the host's own authorities or with none.

mod anyone;

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use hyper::http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, RootCertStore};

use super::line;
use crate::mesh::Tls;
use anyone::Anyone;

/// Of the host's authorities, as they were when they were first needed: reading them anew takes longer than asking.
static VERIFYING: OnceLock<Arc<ClientConfig>> = OnceLock::new();
static TRUSTING: OnceLock<Arc<ClientConfig>> = OnceLock::new();

/// Whose certificate it has to be. Addresses are not told to the server (RFC 6066).
pub(super) fn server_name(host: Option<&str>, to: IpAddr) -> Result<ServerName<'static>, String> {
    let Some(host) = host else { return Ok(ServerName::from(to)) };
    let wrong = || format!("host {host:?}: no name that a certificate could have");
    // It may have a port, as the Host header may.
    let authority: Authority = host.parse().map_err(|_| wrong())?;
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(name.to_owned()).map_err(|_| wrong())
}

pub(super) async fn handshake<S>(stream: S, tls: Tls, name: ServerName<'static>) -> Result<TlsStream<S>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = if tls.verify { verifying()? } else { trusting()? };
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
        reason(&error).unwrap_or_else(|| match error.kind() {
            io::ErrorKind::UnexpectedEof => "connection closed without TLS".to_owned(),
            _ => super::reason(&error),
        })
    })
}

fn verifying() -> Result<Arc<ClientConfig>, String> {
    if let Some(config) = VERIFYING.get() {
        return Ok(Arc::clone(config));
    }
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if authorities.is_empty() {
        // Not kept: they may be installed yet.
        return Err("certificate: this host has no authorities (ca-certificates)".to_owned());
    }
    let config = versions()?.with_root_certificates(authorities).with_no_client_auth();
    Ok(Arc::clone(VERIFYING.get_or_init(|| finished(config))))
}

fn trusting() -> Result<Arc<ClientConfig>, String> {
    if let Some(config) = TRUSTING.get() {
        return Ok(Arc::clone(config));
    }
    let anyone = Arc::new(Anyone::new(&ring::default_provider()));
    let config = versions()?.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth();
    Ok(Arc::clone(TRUSTING.get_or_init(|| finished(config))))
}

type Builder = tokio_rustls::rustls::ConfigBuilder<ClientConfig, tokio_rustls::rustls::WantsVerifier>;

fn versions() -> Result<Builder, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.map_err(|error| format!("tls: {error}"))
}

fn finished(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A session that is resumed shows no certificate.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// What TLS has to say of an error; `None`: it is not TLS's.
pub(super) fn reason(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match error {
        Error::InvalidCertificate(error) => format!("certificate: {}", certificate(error)),
        Error::InvalidMessage(_) => "tls: answer is not TLS".to_owned(),
        Error::AlertReceived(alert) => format!("tls: alert {alert:?}"),
        other => format!("tls: {}", line(other.to_string().as_bytes())),
    })
}

fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "not valid yet".to_owned(),
        CertificateError::UnknownIssuer => "unknown issuer".to_owned(),
        CertificateError::BadSignature => "bad signature".to_owned(),
        CertificateError::BadEncoding => "bad encoding".to_owned(),
        // Not the names that it is valid for: there may be thousands.
        CertificateError::NotValidForNameContext { expected, .. } => format!("not valid for {}", expected.to_str()),
        CertificateError::NotValidForName => "not valid for that name".to_owned(),
        other => line(other.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificates_name_is_the_hosts_without_a_port_or_the_address() {
        let to: IpAddr = "10.0.0.1".parse().unwrap();
        let check = |host: &str, expected: &str| assert_eq!(server_name(Some(host), to).unwrap().to_str(), expected);
        assert_eq!(server_name(None, to).unwrap().to_str(), "10.0.0.1");
        check("example.org", "example.org");
        check("example.org:8443", "example.org");
        check("[fd00::1]:8443", "fd00::1");
        check("10.0.0.2", "10.0.0.2");
        for wrong in ["", "a b", "exa\u{e4}mple", "..", "[fd00::1"] {
            assert!(server_name(Some(wrong), to).is_err(), "{wrong}");
        }
    }
}
