//! What befalls backends, on one TCP port.

use super::Place;

pub const REFUSES: Option<&str> = Some("reject with tcp reset");
pub const HANGS: Option<&str> = Some("drop");

/// Its answers on 9092 are lost from now on, or it refuses, or all is as before.
pub fn afflict(backend: &Place, how: Option<&str>) {
    afflict_port(backend, 9092, how);
}

/// The same on that port.
pub fn afflict_port(backend: &Place, port: u16, how: Option<&str>) {
    let _ = backend.try_run("nft delete table inet affliction");
    if let Some(how) = how {
        backend.run("nft add table inet affliction");
        backend.run("nft add chain inet affliction input { type filter hook input priority 0 ; }");
        backend.run(&format!("nft add rule inet affliction input tcp dport {port} {how}"));
    }
}
