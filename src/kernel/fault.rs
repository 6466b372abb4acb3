//! Faults made on purpose, in a build with the feature `faults` (the program meshd-faults): at a point that is chosen the daemon dies
//! or is refused something. Without the feature there is nothing of this.
//!
//! MESHD_FAULT says which: `crash@12`, `ENOBUFS@12`. Points are counted as they are passed: from the beginning, or once the file
//! MESHD_FAULT_AFTER is there. Of each a line goes to the file MESHD_FAULT_POINTS.

#[cfg(not(feature = "faults"))]
mod chosen {
    /// Nothing happens here.
    #[inline(always)]
    pub fn at(_: &'static str) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "faults")]
mod chosen {
    use std::env;
    use std::fs::OpenOptions;
    use std::io::{self, Write};
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::errno::Errno;

    const ERRORS: [(&str, Errno); 8] = [
        ("ENOBUFS", Errno::ENOBUFS),
        ("EINTR", Errno::EINTR),
        ("EBUSY", Errno::EBUSY),
        ("ENOMEM", Errno::ENOMEM),
        ("EEXIST", Errno::EEXIST),
        ("ENOENT", Errno::ENOENT),
        ("ENOSPC", Errno::ENOSPC),
        ("EIO", Errno::EIO),
    ];

    struct Plan {
        after: Option<PathBuf>,
        points: Option<PathBuf>,
        /// `None` for the error: the process dies.
        fault: Option<(u64, Option<Errno>)>,
    }

    fn plan() -> &'static Plan {
        static PLAN: OnceLock<Plan> = OnceLock::new();
        PLAN.get_or_init(|| {
            let file = |name| env::var_os(name).map(PathBuf::from);
            let fault = env::var("MESHD_FAULT").ok().and_then(|text| {
                let (what, number) = text.split_once('@')?;
                let error = ERRORS.iter().find(|(name, _)| *name == what).map(|(_, errno)| *errno);
                (error.is_some() || what == "crash").then_some((number.parse().ok()?, error))
            });
            Plan { after: file("MESHD_FAULT_AFTER"), points: file("MESHD_FAULT_POINTS"), fault }
        })
    }

    /// Passes a point.
    pub fn at(point: &'static str) -> io::Result<()> {
        static PASSED: AtomicU64 = AtomicU64::new(0);
        let plan = plan();
        if plan.after.as_ref().is_some_and(|after| !after.exists()) {
            return Ok(());
        }
        let number = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(points) = &plan.points {
            let file = OpenOptions::new().create(true).append(true).open(points);
            // What cannot be written is missed by the test that reads it.
            drop(file.and_then(|mut file| writeln!(file, "{number} {point}")));
        }
        match plan.fault {
            Some((chosen, None)) if chosen == number => std::process::abort(),
            Some((chosen, Some(errno))) if chosen == number => Err(errno.into()),
            _ => Ok(()),
        }
    }
}

pub use chosen::at;
