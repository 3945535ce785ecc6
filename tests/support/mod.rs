//! What the tests, the demo and the benchmarks share: an S3 server of our own, pictures to put into
//! it, and, for the tests alone, the mounted binary.

#[cfg(test)]
pub(crate) mod directory;
#[cfg(test)]
pub(crate) mod hostile;
pub(crate) mod listeners;
#[cfg(test)]
pub(crate) mod logind;
// The program of the simulator has no binary to mount.
#[cfg(test)]
pub(crate) mod mounted;
pub(crate) mod pictures;
#[cfg(test)]
pub(crate) mod servers;
pub(crate) mod simulator;
#[cfg(test)]
pub(crate) mod stage;
