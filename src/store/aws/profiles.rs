//! What the profile files say that must be known before anything is asked: the server's address, and
//! whether they can be read at all. The SDK leaves out what it cannot read, and would then ask
//! another server than the one that was meant.

use std::borrow::Cow;

use aws_config::profile::{ProfileFileLoadError, ProfileSet, load};
use aws_config::{BehaviorVersion, ConfigLoader};
use aws_types::os_shim_internal::{Env, Fs};

use super::connect::configured_endpoint;
use super::errors::chain;
use crate::error::one_line;

/// Of one profile.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ProfileSettings {
    /// `endpoint_url`, the one of `[services]` for S3 first.
    pub endpoint_url: Option<String>,
}

/// As the SDK finds them; no request is sent. Starts no thread. The error is a sentence.
pub fn read_profile(name: Option<&str>) -> Result<ProfileSettings, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|err| format!("the profiles cannot be read: {err}"))?;
    runtime.block_on(async {
        profiles(name).await?;
        let mut loader: ConfigLoader =
            aws_config::defaults(BehaviorVersion::v2026_01_12()).no_credentials();
        loader = loader.region(aws_config::Region::from_static("us-east-1"));
        if let Some(name) = name {
            loader = loader.profile_name(name);
        }
        Ok(ProfileSettings { endpoint_url: configured_endpoint(&loader.load().await) })
    })
}

/// What is wrong with the profile that credentials were to come from; `None` where that is not why
/// there are none.
pub(super) async fn missing_profile(name: Option<&str>) -> Option<String> {
    let set = profiles(name).await.ok()?;
    let selected = set.selected_profile();
    if set.get_profile(selected).is_some() || name.is_none() && selected == "default" {
        return None;
    }
    let mut others: Vec<&str> = set.profiles().collect();
    others.sort_unstable();
    let there = match &others[..] {
        [] => "no profile at all was found".to_owned(),
        others => format!("those that were found are {}", one_line(&others.join(", "))),
    };
    Some(format!("there is no profile {}: {there}", one_line(selected)))
}

async fn profiles(name: Option<&str>) -> Result<ProfileSet, String> {
    let selected = name.map(|name| Cow::Owned(name.to_owned()));
    let files = Default::default();
    load(&Fs::real(), &Env::real(), &files, selected).await.map_err(|err| sentence(&err))
}

fn sentence(err: &ProfileFileLoadError) -> String {
    let words = one_line(&chain(err));
    let reason = words.trim_start_matches("could not parse profile file: error parsing ");
    match reason
        .split_once(" on line ")
        .and_then(|(path, rest)| Some((path, rest.split_once(':')?)))
    {
        Some((path, (line, what))) => format!(
            "the AWS configuration file {path} is malformed in line {line}: {}; correct it",
            lower_first(what.trim())
        ),
        None => format!("the AWS configuration cannot be read: {reason}; correct it"),
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
