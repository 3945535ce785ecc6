//! Who may do what: a small part of IAM, enough for the cases in which a client must not guess.
//! A request with a good signature may do everything that no rule denies.

/// The actions of IAM that the simulator tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    ListAllMyBuckets,
    CreateBucket,
    GetBucketLocation,
    /// Of a listing and of HEAD on the bucket; without it a missing key is 403 rather than 404.
    ListBucket,
    GetObject,
    /// Of HEAD and GET with a version id.
    GetObjectVersion,
    PutObject,
    DeleteObject,
}

/// Which keys, or which prefixes of listings, a rule denies.
#[derive(Clone, Debug)]
pub(crate) enum Denied {
    Below(String),
    /// The usual policy with a condition on `s3:prefix`: everything but this is denied.
    Outside(String),
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) action: Action,
    pub(crate) denied: Denied,
}

/// The rules of one bucket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    pub(crate) rules: Vec<Rule>,
    /// Unsigned requests are answered, as those of `--no-sign-request`.
    pub(crate) anonymous: bool,
    /// Refuses requests without `x-amz-request-payer`.
    pub(crate) requester_pays: bool,
}

impl Policy {
    /// `subject` is the key, or the prefix of a listing.
    pub(crate) fn allows(&self, action: Action, subject: &str) -> bool {
        !self.rules.iter().any(|rule| rule.action == action && rule.denied.covers(subject))
    }

    /// Whether a missing key may be told from a forbidden one. S3 asks for `ListBucket` without a
    /// prefix then, so that a rule that allows one prefix only never helps.
    pub(crate) fn tells_missing_keys(&self, key: &str) -> bool {
        !self.rules.iter().any(|rule| {
            let denied = match &rule.denied {
                Denied::Below(prefix) => key.starts_with(prefix),
                Denied::Outside(_) => true,
            };
            rule.action == Action::ListBucket && denied
        })
    }
}

impl Denied {
    fn covers(&self, subject: &str) -> bool {
        match self {
            Self::Below(prefix) => subject.starts_with(prefix),
            Self::Outside(prefix) => !subject.starts_with(prefix),
        }
    }
}
