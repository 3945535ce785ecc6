//! What the profile files say that must be known before anything is asked: the server's address, and
//! whether they can be read at all. The SDK leaves out what it cannot read, and would then ask
//! another server than the one that was meant. And, where they gave no credentials, what is told of
//! that.

use std::borrow::Cow;
use std::path::Path;

use aws_config::profile::{ProfileFileLoadError, ProfileSet, load};
use aws_config::{BehaviorVersion, ConfigLoader, Region};
use aws_types::os_shim_internal::{Env, Fs};
use futures_util::FutureExt;

use super::connect::configured_endpoint;
use super::transport::chain;
use crate::error::one_line;
use crate::store::credentials::CredentialFiles;

/// Of one profile.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ProfileSettings {
    /// `endpoint_url`, the one of `[services]` for S3 first.
    pub endpoint_url: Option<String>,
}

/// As the SDK finds them; no request is sent. The error is a sentence. Needs no runtime, because it
/// comes before the fork and its caller may have one: the SDK reads the files without waiting.
pub fn read_profile(name: Option<&str>) -> Result<ProfileSettings, String> {
    let settings = async {
        profiles(name).await?;
        let mut loader: ConfigLoader =
            aws_config::defaults(BehaviorVersion::v2026_01_12()).no_credentials();
        // Not to be looked for: that could ask the instance.
        loader = loader.region(Region::from_static("us-east-1"));
        if let Some(name) = name {
            loader = loader.profile_name(name);
        }
        Ok(ProfileSettings { endpoint_url: configured_endpoint(&loader.load().await) })
    };
    let waited = || Err("the AWS configuration cannot be read without waiting for it".to_owned());
    settings.now_or_never().unwrap_or_else(waited)
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

/// What is told when the chain found nothing; `reason` is its own.
pub(super) fn no_credentials(
    profile: Option<&str>,
    files: &CredentialFiles,
    reason: &str,
) -> String {
    // How the SDK's chain says that it found nothing, which is said better below, and how a reason
    // begins that is worth telling.
    const NOTHING: [&str; 2] = ["no credentials found in chain", "no providers in chain"];
    const NOISE: [&str; 4] = [
        "the credential provider was not enabled",
        "an error occurred while loading credentials",
        "an error occurred while loading an access token",
        "Error retrieving credentials",
    ];
    let reason = one_line(reason);
    let mut reason = reason.as_str();
    while let Some(rest) = NOISE.iter().find_map(|noise| reason.strip_prefix(noise)) {
        reason = rest.trim_start_matches(": ");
    }
    let is_empty = reason.is_empty() || NOTHING.iter().any(|start| reason.starts_with(start));
    let because = if is_empty { String::new() } else { format!(" ({reason})") };
    let token = match &files.web_identity_token_file {
        Some(path) => format!("{}, which AWS_WEB_IDENTITY_TOKEN_FILE names", place(path)),
        None => "AWS_WEB_IDENTITY_TOKEN_FILE".to_owned(),
    };
    let (places, public) = (places(files), "; a public bucket needs --no-sign-request");
    match profile {
        Some(profile) => format!(
            "the profile {profile} gave no AWS credentials{because}; looked in {places}; set them \
             with `aws configure --profile {profile}`, or log in with `aws sso login --profile \
             {profile}`{public}"
        ),
        None => format!(
            "no AWS credentials were found{because}; looked in AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY, in the profile of {places} with its SSO, role and \
             credential_process, in {token}, and in the container's and the instance's metadata; \
             set them with `aws configure`{public}"
        ),
    }
}

/// For a profile that does not exist; `reason` names it and those that do.
pub(super) fn missing_profile_sentence(reason: &str, files: &CredentialFiles) -> String {
    format!("{reason}; looked in {}; name another with --profile or AWS_PROFILE", places(files))
}

/// The files with profiles, and which of them are not there.
fn places(files: &CredentialFiles) -> String {
    let files = [&files.credentials_file, &files.config_file];
    let places: Vec<String> = files.into_iter().flatten().map(|path| place(path)).collect();
    match &places[..] {
        [] => "~/.aws (there is no HOME)".to_owned(),
        places => places.join(" and "),
    }
}

fn place(path: &Path) -> String {
    match path.try_exists() {
        Ok(false) => format!("{} (absent)", path.display()),
        _ => path.display().to_string(),
    }
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
