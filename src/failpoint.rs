//! Places where tests make the program panic, by name, with the `fail` crate and the feature
//! `failpoints`. Without the feature, as in a release, they are nothing at all.

/// Acts as `FAILPOINTS` says for `$name`.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name);
    };
}
