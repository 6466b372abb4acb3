//! Many clients at once, at random: what is acknowledged is what is, in the daemon and in the kernel.
