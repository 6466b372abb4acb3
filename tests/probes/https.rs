use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::{env, fs};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use meshd::mesh::{HttpProbe, Probe, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};

use crate::{SHORT, ask, ask_for, failed, servers};

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn get(verify: bool, host: Option<&str>) -> Probe {
    Probe::Http(HttpProbe {
        tls: Some(Tls { verify }),
        path: "/".to_owned(),
        host: host.map(str::to_owned),
        status: 200..=299,
        body: Some("ok".to_owned()),
    })
}

/// What a server shows, and its key.
struct Identity(CertificateDer<'static>, PrivateKeyDer<'static>);

fn parameters(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn self_signed(names: &[&str]) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = parameters(names).self_signed(&key).unwrap();
    Identity(certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

fn authority(name: &str, key: KeyPair) -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = parameters(&[]);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(parameters, key).unwrap()
}

/// That nobody knows.
fn stranger(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    authority(name, KeyPair::generate().unwrap())
}

fn issued(authority: &CertifiedIssuer<'static, KeyPair>, parameters: &CertificateParams) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.signed_by(&key, authority).unwrap();
    Identity(certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

/// The name that was asked for, and how it began.
type Session = (Option<String>, Option<HandshakeKind>);

/// Tells each session, and answers.
fn serve(
    Identity(certificate, key): Identity,
    versions: &[&'static SupportedProtocolVersion],
    answer: &'static str,
) -> (SocketAddr, mpsc::Receiver<Session>) {
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let (named, names) = mpsc::channel();
    let address = servers::tcp(move |stream| {
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
        if servers::head(&mut stream).is_empty() {
            return;
        }
        named.send((stream.conn.server_name().map(str::to_owned), stream.conn.handshake_kind())).unwrap();
        let _ = stream.write_all(answer.as_bytes());
        stream.conn.send_close_notify();
        let _ = stream.flush();
    });
    (address, names)
}

fn both() -> [&'static SupportedProtocolVersion; 2] {
    [&TLS12, &TLS13]
}

#[test]
fn without_verification_any_certificate_is_good() {
    for version in both() {
        let (address, names) = serve(self_signed(&["other.example"]), &[version], GOOD);
        assert_eq!(ask(&get(false, Some("shop.example:8443")), address), Ok(()));
        assert_eq!(names.recv().unwrap().0.as_deref(), Some("shop.example"));
        assert_eq!(ask(&get(false, None), address), Ok(()));
        assert_eq!(names.recv().unwrap().0, None);
    }
    let (address, _names) = serve(self_signed(&[]), &both(), "HTTP/1.1 503 Busy\r\n\r\n");
    assert_eq!(ask(&get(false, None), address), failed("status 503"));
    let mut expired = parameters(&["shop.example"]);
    (expired.not_before, expired.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
    let (address, _names) = serve(issued(&stranger("stranger"), &expired), &both(), GOOD);
    assert_eq!(ask(&get(false, None), address), Ok(()));
}

/// Authorities are loaded once in a process: so what needs some of its own is another one, this program again.
#[test]
fn with_verification_the_hosts_authorities_decide() {
    if env::var_os("MESHD_TEST_AUTHORITY").is_some() {
        return in_a_process_with_an_authority();
    }
    let authority = stranger("known");
    let folder = env::temp_dir().join(format!("meshd-probes-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (file, keys) = (folder.join("authorities.pem"), folder.join("key"));
    let text =
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(authority.der()));
    fs::write(&file, text).unwrap();
    fs::write(&keys, authority.key().serialize_der()).unwrap();
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "https::with_verification_the_hosts_authorities_decide", "--nocapture"])
        .env("MESHD_TEST_AUTHORITY", &keys)
        .env("SSL_CERT_FILE", &file)
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    fs::remove_dir_all(&folder).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

fn in_a_process_with_an_authority() {
    let key = fs::read(env::var_os("MESHD_TEST_AUTHORITY").unwrap()).unwrap();
    let key = KeyPair::try_from(key).unwrap();
    let known = authority("known", key);
    let asked = |identity: Identity, host: Option<&str>| ask(&get(true, host), serve(identity, &both(), GOOD).0);

    let good = parameters(&["shop.example", "127.0.0.1"]);
    assert_eq!(asked(issued(&known, &good), Some("shop.example")), Ok(()));
    assert_eq!(asked(issued(&known, &good), Some("SHOP.example:443")), Ok(()));
    assert_eq!(asked(issued(&known, &good), None), Ok(()));
    let other_name = Some("other.example");
    assert_eq!(asked(issued(&known, &good), other_name), failed("certificate: not valid for other.example"));
    let other = parameters(&["other.example"]);
    assert_eq!(asked(issued(&known, &other), None), failed("certificate: not valid for 127.0.0.1"));

    let mut expired = good.clone();
    (expired.not_before, expired.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
    assert_eq!(asked(issued(&known, &expired), None), failed("certificate: expired"));
    let mut early = good.clone();
    (early.not_before, early.not_after) = (date_time_ymd(3001, 1, 1), date_time_ymd(3002, 1, 1));
    assert_eq!(asked(issued(&known, &early), None), failed("certificate: not valid yet"));

    assert_eq!(asked(issued(&stranger("known"), &good), None), failed("certificate: bad signature"));
    assert_eq!(asked(issued(&stranger("stranger"), &good), None), failed("certificate: unknown issuer"));
    assert_eq!(asked(self_signed(&["127.0.0.1"]), None), failed("certificate: unknown issuer"));

    // Each time anew: nothing is resumed that once was good.
    for version in both() {
        let (address, sessions) = serve(issued(&known, &good), &[version], GOOD);
        for _ in 0..3 {
            assert_eq!(ask(&get(true, Some("shop.example")), address), Ok(()));
            assert_eq!(sessions.recv().unwrap().1, Some(HandshakeKind::Full));
        }
    }
}

#[test]
fn a_host_without_authorities_says_so() {
    if env::var_os("MESHD_TEST_NO_AUTHORITY").is_some() {
        let (address, _names) = serve(self_signed(&[]), &both(), GOOD);
        assert_eq!(
            ask(&get(true, None), address),
            failed("certificate: this host has no authorities (ca-certificates)")
        );
        return;
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "https::a_host_without_authorities_says_so", "--nocapture"])
        .env("MESHD_TEST_NO_AUTHORITY", "1")
        .env("SSL_CERT_FILE", "/nonexistent")
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_not_tls_is_told() {
    let (_reserved, address) = servers::refused();
    assert_eq!(ask(&get(false, None), address), failed("connection refused"));
    assert_eq!(ask_for(SHORT, &get(false, None), servers::silent()), failed("no answer in 400ms"));
    let plain = servers::tcp(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    assert_eq!(ask(&get(false, None), plain), failed("tls: answer is not TLS"));
    let closing = servers::tcp(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
    });
    assert_eq!(ask(&get(false, None), closing), failed("connection closed without TLS"));
    // An alert: handshake_failure.
    let alert = servers::tcp(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(&[21, 3, 3, 0, 2, 2, 40]);
    });
    assert_eq!(ask(&get(false, None), alert), failed("tls: alert HandshakeFailure"));
    let endless = servers::tcp(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        // Warnings, which TLS 1.2 may pass over.
        while stream.write_all(&[21, 3, 3, 0, 2, 1, 90].repeat(1000)).is_ok() {}
    });
    assert!(ask(&get(false, None), endless).is_err());
}
