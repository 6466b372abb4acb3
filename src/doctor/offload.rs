//! What the underlay's link does in hardware to the tunnel's packets.

use super::chart::Chart;
use crate::control::protocol::{Area, Grade};
use crate::objects::Device;

const CHECKSUM: &str = "tx-checksum-ip-generic";
const SEGMENTATION: &str = "tx-udp_tnl-segmentation";
const SEGMENTATION_SUMMED: &str = "tx-udp_tnl-csum-segmentation";
/// Whose checksums of TCP in VXLAN are wrong on some hosts (moby#41775, calico#9433, openshift/machine-config-operator#2734).
const SUSPECT: &str = "vmxnet3";

pub fn look(chart: &mut Chart<'_>) {
    let Some(device) = &chart.condition.underlay else { return };
    let Some(offloads) = &device.offloads else {
        let why = "whether its hardware spoils the tunnel's packets cannot be told (Linux 5.6 and later say)";
        let mend = format!("ethtool -k {}", device.name);
        return chart.bad(
            (Area::Offload, Grade::Notice),
            "offloads",
            format!("{} does not say", device.name),
            why,
            mend,
        );
    };
    checksum(chart, device, offloads.on.contains(CHECKSUM));
    if chart.mesh.ingress.encryption.is_some() {
        return;
    }
    let on = offloads.on.contains(SEGMENTATION) || offloads.on.contains(SEGMENTATION_SUMMED);
    let what = format!("segmentation of VXLAN by {}", device.name);
    if on {
        return chart.good(Area::Offload, what, "on", "large writes to other nodes are cut by hardware");
    }
    if !offloads.can.contains(SEGMENTATION) {
        return chart.good(
            Area::Offload,
            what,
            "not there",
            "large writes to other nodes are cut by the kernel, just before they leave",
        );
    }
    let why = "the kernel cuts large writes to other nodes, which the hardware could do";
    let mend = format!("ethtool -K {} {SEGMENTATION} on", device.name);
    chart.bad((Area::Offload, Grade::Notice), what, "off", why, mend);
}

/// TCP over VXLAN dead while ping works.
fn checksum(chart: &mut Chart<'_>, device: &Device, is_on: bool) {
    let driver = device.driver.as_deref();
    let what = format!("checksums of VXLAN by {}", device.name);
    let found = format!("{} {}, driver {}", CHECKSUM, if is_on { "on" } else { "off" }, driver.unwrap_or("none"));
    // In WireGuard's packets there is nothing that hardware would know.
    if driver != Some(SUSPECT) || !is_on || chart.mesh.ingress.encryption.is_some() {
        return chart.good(Area::Offload, what, found, "nothing is known against it");
    }
    let why = "on some VMware hosts that link computes wrong checksums in VXLAN: TCP between nodes is dead while ping works (moby#41775)";
    let mend = format!(
        "ethtool -K {} {CHECKSUM} off, on all nodes; or another [ingress] port than 4789 on all nodes",
        device.name
    );
    chart.bad((Area::Offload, chart.between(Grade::Warning)), what, found, why, mend);
}
