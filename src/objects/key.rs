//! WireGuard's keys: Curve25519, 32 bytes, written in base64 as wg(8) does.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x25519_dalek::StaticSecret;

/// By which a node is known to the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

/// A text that is no key: 44 characters of base64 are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a WireGuard key, 44 characters of base64")]
pub struct NoKey;

impl FromStr for PublicKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<PublicKey, NoKey> {
        decode(text).map(PublicKey)
    }
}

/// All zeros is what the kernel takes for none.
fn decode(text: &str) -> Result<[u8; 32], NoKey> {
    let bytes: [u8; 32] = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(NoKey)?;
    (bytes != [0; 32]).then_some(bytes).ok_or(NoKey)
}

/// What a node proves with that it is the one of its public key. It is shown to no one, and wiped when it is dropped.
#[derive(Clone)]
pub struct PrivateKey(StaticSecret);

impl PrivateKey {
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }

    pub fn bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// As its file has it.
    pub fn encode(&self) -> String {
        STANDARD.encode(self.bytes())
    }
}

impl From<[u8; 32]> for PrivateKey {
    /// Clamped (RFC 7748, section 5), as the kernel keeps it: told the same again, it sees that and keeps all sessions.
    fn from(mut bytes: [u8; 32]) -> PrivateKey {
        bytes[0] &= 248;
        bytes[31] = bytes[31] & 127 | 64;
        PrivateKey(bytes.into())
    }
}

impl FromStr for PrivateKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<PrivateKey, NoKey> {
        decode(text).map(PrivateKey::from)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748, section 6.1: Alice's and Bob's.
    #[test]
    fn the_public_key_is_that_of_the_private_one() {
        for (private, public) in [
            ("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="),
            ("XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=", "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="),
        ] {
            let key: PrivateKey = private.parse().unwrap();
            assert_eq!(key.public().to_string(), public);
            let again: PrivateKey = key.encode().parse().unwrap();
            assert_eq!((again.public(), again.bytes()[0] & 7, again.bytes()[31] & 192), (key.public(), 0, 64));
            assert_eq!(key.public(), public.parse().unwrap());
            assert!(!format!("{key:?}").contains(private));
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let good = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        assert!(good.parse::<PublicKey>().is_ok());
        for bad in [
            "",
            "=",
            &good[..43],
            &good[1..],
            "not base64 at all, although of the right size!",
            "AAAA",
            &("A".repeat(43) + "="),
        ] {
            assert_eq!(bad.parse::<PublicKey>(), Err(NoKey), "{bad}");
            assert!(bad.parse::<PrivateKey>().is_err());
        }
    }
}
