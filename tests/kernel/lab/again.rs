//! Namespaces that go and come back.

use super::{Backend, Lab, Place, batch};

impl Lab {
    /// Where a backend's namespace is, or will be.
    pub fn place(&self, name: &str) -> Place {
        Place::new(format!("{}{name}", self.prefix))
    }

    /// A backend that is gone: its servers, and its namespace.
    pub fn remove(&self, backend: Backend) {
        let name = backend.name.clone();
        drop(backend);
        batch(None, &format!("netns del {name}\n"));
        self.namespaces.borrow_mut().retain(|known| *known != name);
    }
}
