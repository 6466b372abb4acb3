//! Netlink attributes: type, length, value, padded to four bytes (linux/netlink.h, `struct nlattr`).

use std::net::IpAddr;

/// The attribute's value is attributes itself.
const NESTED: u16 = 1 << 15;
/// The two highest bits are flags, the rest is the type.
const TYPE: u16 = 0x3fff;

/// Writes attributes into a message's body.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Begins a body with the fixed header that comes before its attributes.
    pub fn after(header: &[u8]) -> Writer {
        let mut writer = Writer { bytes: header.to_vec() };
        writer.pad();
        writer
    }

    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    pub fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    /// In host byte order, as generic netlink has it.
    pub fn u16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// In network byte order, as netfilter has it.
    pub fn be16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A string with the terminating zero that the kernel expects.
    pub fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// An address, as many bytes as its family has.
    pub fn ip(&mut self, kind: u16, value: IpAddr) {
        self.bytes(kind, &octets(value));
    }

    pub fn nested(&mut self, kind: u16, write: impl FnOnce(&mut Writer)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        write(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
    }

    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The attributes in `bytes`, as far as they are well formed: what the kernel may add one day is skipped by
/// the reader, and what is torn ends the list.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_of(rest.get(..2)?)?);
        let kind = u16_of(rest.get(2..4)?)? & TYPE;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of that type.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The address that has those bytes.
pub fn ip_of(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
}

/// A number in host byte order.
pub fn u16_of(value: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(value.try_into().ok()?))
}

pub fn u32_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

pub fn u64_of(value: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(value.try_into().ok()?))
}

/// A number in network byte order.
pub fn be16_of(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

pub fn be32_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

pub fn be64_of(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

/// A string up to its terminating zero.
pub fn string_of(value: &[u8]) -> Option<String> {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    Some(std::str::from_utf8(&value[..end]).ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::after(&[1, 2, 3, 4]);
        writer.u8(1, 7);
        writer.nested(2, |inner| {
            inner.be16(1, 0x1234);
            inner.string(2, "rr");
        });
        writer.be64(3, u64::MAX - 1);
        let bytes = writer.finish();
        assert_eq!(bytes.len() % 4, 0);
        let body = &bytes[4..];
        assert_eq!(find(body, 1), Some(&[7][..]));
        let inner = find(body, 2).unwrap();
        assert_eq!(find(inner, 1).and_then(be16_of), Some(0x1234));
        assert_eq!(find(inner, 2).and_then(string_of).as_deref(), Some("rr"));
        assert_eq!(find(body, 3).and_then(be64_of), Some(u64::MAX - 1));
    }

    #[test]
    fn torn_attributes_end_the_list() {
        for bytes in [&[0][..], &[3, 0, 1, 0], &[8, 0, 1, 0, 1], &[255, 255, 1, 0, 9, 9, 9, 9], &[4, 0, 1, 0, 2]] {
            assert!(attributes(bytes).all(|(_, value)| value.len() <= bytes.len()), "{bytes:?}");
        }
        assert_eq!(u32_of(&[1, 2, 3]), None);
        assert_eq!(string_of(&[0xff, 0xfe]), None);
    }
}
