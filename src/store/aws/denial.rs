//! What a denied request lacks: the action of IAM and the resource, as a policy must name them.

/// What was asked for, as far as a policy looks at it.
pub(super) struct Denied<'a> {
    /// The action that the request itself needs.
    pub(super) action: &'static str,
    /// A bucket's name or an access point's ARN.
    pub(super) bucket: &'a str,
    /// `None` for a listing.
    pub(super) key: Option<&'a str>,
    pub(super) region: &'a str,
}

impl Denied<'_> {
    /// "ACTION on ARN". The server's own words win: a GET of an encrypted object may lack
    /// `kms:Decrypt`, and an access point may stand before the bucket.
    pub(super) fn lacks(&self, code: Option<&str>, said: Option<&str>) -> String {
        if let Some((action, resource)) = said.and_then(named) {
            return format!("{action} on {resource}");
        }
        let is_of_kms = code.is_some_and(|code| code.starts_with("KMS."))
            || said.is_some_and(|said| said.contains("KMS") || said.contains("ciphertext"));
        if is_of_kms {
            return "kms:Decrypt on the key that the object is encrypted with".to_owned();
        }
        format!("{} on {}", self.action, self.resource())
    }

    fn resource(&self) -> String {
        let Self { bucket, key, region, .. } = self;
        let partition = match region.split('-').next() {
            Some("cn") => "aws-cn",
            Some("us") if region.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        };
        match (bucket.starts_with("arn:"), key) {
            (true, None) => (*bucket).to_owned(),
            (true, Some(key)) => format!("{bucket}/object/{key}"),
            (false, None) => format!("arn:{partition}:s3:::{bucket}"),
            (false, Some(key)) => format!("arn:{partition}:s3:::{bucket}/{key}"),
        }
    }
}

/// The action and the resource in "... is not authorized to perform: ACTION on resource: ARN because
/// ...", where the ARN may be in quotes.
fn named(said: &str) -> Option<(&str, &str)> {
    let (_, rest) = said.split_once("is not authorized to perform: ")?;
    let (action, rest) = rest.split_once(" on resource: ")?;
    let resource = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?.0,
        None => rest.split_whitespace().next()?,
    };
    let is_action = action.contains(':') && !action.contains(char::is_whitespace);
    (is_action && resource.starts_with("arn:")).then_some((action, resource))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get<'a>(bucket: &'a str, region: &'a str) -> Denied<'a> {
        Denied { action: "s3:GetObject", bucket, key: Some("a/b c"), region }
    }

    #[test]
    fn a_denial_names_action_and_resource() {
        let denied = get("myfiles", "eu-west-1");
        assert_eq!(denied.lacks(None, None), "s3:GetObject on arn:aws:s3:::myfiles/a/b c");
        assert_eq!(
            denied.lacks(Some("AccessDenied"), Some("Access Denied")),
            denied.lacks(None, None)
        );
        let list = Denied { action: "s3:ListBucket", key: None, ..get("myfiles", "cn-north-1") };
        assert_eq!(list.lacks(None, None), "s3:ListBucket on arn:aws-cn:s3:::myfiles");
        let point = "arn:aws:s3:eu-west-1:111122223333:accesspoint/name";
        assert_eq!(
            get(point, "eu-west-1").lacks(None, None),
            format!("s3:GetObject on {point}/object/a/b c")
        );
    }

    #[test]
    fn the_servers_own_words_win() {
        let key = "arn:aws:kms:eu-west-1:111122223333:key/1234";
        let said = format!(
            "User: arn:aws:iam::111122223333:user/u is not authorized to perform: kms:Decrypt on \
             resource: {key} because no identity-based policy allows the kms:Decrypt action"
        );
        let denied = get("myfiles", "eu-west-1");
        assert_eq!(denied.lacks(None, Some(&said)), format!("kms:Decrypt on {key}"));
        let quoted = said.replace(key, "\"arn:aws:s3:::b/a b\"").replace("kms:", "s3:");
        assert_eq!(denied.lacks(None, Some(&quoted)), "s3:Decrypt on arn:aws:s3:::b/a b");
        let old = "The ciphertext refers to a customer master key that does not exist, does not \
                   exist in this region, or you are not allowed to access.";
        assert!(denied.lacks(None, Some(old)).starts_with("kms:Decrypt on the key"));
    }
}
