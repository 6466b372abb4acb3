//! The service that most tests publish: three backends that listen on 9092.

use super::{Backend, Lab, Protocol};

/// Published on TCP 20229, this is its mark: (tcp 1) << 16 | 20229.
pub const MARK: u32 = 0x14f05;

/// The lines of a service: its backends at IPv4 addresses.
pub const BACKENDS4: &str = r#"
    backend = [
        { address = "10.255.0.33", netns = "kafka-1" },
        { address = "10.255.0.34", netns = "kafka-2" },
        { address = "10.255.0.35", netns = "kafka-3" },
    ]"#;

/// The same backends at addresses of both families.
pub const BACKENDS: &str = r#"
    backend = [
        { address = "10.255.0.33", netns = "kafka-1" },
        { address = "10.255.0.34", netns = "kafka-2" },
        { address = "10.255.0.35", netns = "kafka-3" },
        { address = "fd00:255::33", netns = "kafka-1" },
        { address = "fd00:255::34", netns = "kafka-2" },
        { address = "fd00:255::35", netns = "kafka-3" },
    ]"#;

impl Lab {
    /// That one of kafka's backends, as meshctl is told of it.
    pub fn kafka_option(&self, number: usize) -> String {
        format!("-b 10.255.0.{},netns={}", 32 + number, self.place(&format!("kafka-{number}")).name)
    }

    /// kafka-1, kafka-2 and kafka-3, which serve these protocols.
    pub fn kafka(&self, protocols: &[Protocol]) -> [Backend; 3] {
        self.backends(["kafka-1", "kafka-2", "kafka-3"])
            .map(|backend| protocols.iter().fold(backend, |backend, protocol| backend.serve(*protocol, 9092)))
    }
}
