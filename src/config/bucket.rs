//! The ways to name a bucket, checked before any request: a typing error is told at once and in
//! words, not by a server's 400.

use std::net::Ipv4Addr;

/// What the BUCKET argument says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BucketName {
    /// A bucket name, an access-point alias or an access-point ARN.
    pub bucket: String,
    /// As it was typed; `None` where nothing followed the bucket.
    pub prefix: Option<String>,
    /// From an ARN.
    pub region: Option<String>,
}

impl BucketName {
    /// `lenient`: the server is not AWS, and others allow underscores and upper case.
    pub fn parse(text: &str, lenient: bool) -> Result<Self, String> {
        let place = text.strip_prefix("s3://").unwrap_or(text);
        if place.starts_with("arn:") {
            return parse_arn(place);
        }
        if place.contains("://") {
            return Err(
                "a bucket is written as myfiles, myfiles/prefix or s3://myfiles/prefix; the \
                        address of a server goes to --endpoint-url"
                    .to_owned(),
            );
        }
        if ["/", "./", "../"].iter().any(|start| place.starts_with(start)) {
            return Err(
                "the bucket comes first, and the directory to mount it on second".to_owned()
            );
        }
        let (bucket, prefix) = split_prefix(place)?;
        if lenient {
            check_leniently(bucket)?
        } else {
            check_name(bucket)?
        }
        Ok(Self { bucket: bucket.to_owned(), prefix, region: None })
    }
}

/// A prefix as the rest of the program has it: empty, or ending in `/`. Nothing else is changed,
/// because all other characters, slashes included, are part of the keys.
pub fn normalize_prefix(prefix: &str) -> Result<String, String> {
    if prefix.is_empty() || prefix.ends_with('/') {
        return check_length(prefix.to_owned());
    }
    check_length(format!("{prefix}/"))
}

fn check_length(prefix: String) -> Result<String, String> {
    // A key of S3 has at most 1,024 bytes, and one below the prefix has at least one more.
    if prefix.len() < 1024 {
        Ok(prefix)
    } else {
        Err("a prefix has at most 1,023 bytes".to_owned())
    }
}

fn split_prefix(place: &str) -> Result<(&str, Option<String>), String> {
    match place.split_once('/') {
        None | Some((_, "")) => Ok((place.trim_end_matches('/'), None)),
        Some((_, rest)) if rest.starts_with('/') => Err(format!(
            "two slashes follow the bucket; for keys that really begin with a slash, write \
             --prefix '{rest}'"
        )),
        Some((bucket, rest)) => Ok((bucket, Some(rest.to_owned()))),
    }
}

/// The rules of AWS for general-purpose buckets, which the names of directory buckets and
/// access-point aliases follow, too.
fn check_name(name: &str) -> Result<(), String> {
    let good_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-');
    let reason = if !(3 <= name.len() && name.len() <= 63) {
        format!("has 3 to 63 characters, not {}", name.chars().count())
    } else if name.chars().any(|c| c.is_ascii_uppercase()) {
        format!("has lower-case letters only, as in '{}'", name.to_ascii_lowercase())
    } else if name.contains('_') {
        "has no underscores, but may have hyphens".to_owned()
    } else if let Some(other) = name.chars().find(|c| !allowed(*c)) {
        format!("consists of lower-case letters, digits, dots and hyphens, without {other:?}")
    } else if !good_end(name.chars().next()) {
        "begins with a letter or digit".to_owned()
    } else if !good_end(name.chars().next_back()) {
        "ends with a letter or digit".to_owned()
    } else if name.contains("..") {
        "has no two dots in a row".to_owned()
    } else if name.parse::<Ipv4Addr>().is_ok() {
        "does not look like an IP address".to_owned()
    } else if let Some(start) = RESERVED_STARTS.iter().find(|start| name.starts_with(**start)) {
        format!("does not begin with {start}, which AWS keeps for itself")
    } else if let Some(end) = RESERVED_ENDS.iter().find(|end| name.ends_with(**end)) {
        format!("does not end with {end}, which AWS keeps for names of other things")
    } else {
        return Ok(());
    };
    Err(format!("a bucket name {reason}"))
}

/// S3 user guide, "General purpose bucket naming rules".
const RESERVED_STARTS: [&str; 3] = ["xn--", "sthree-", "amzn-s3-demo-"];

/// From the same place; without `-s3alias` and `--x-s3`, which are the names of access points and of
/// directory buckets and can be mounted.
const RESERVED_ENDS: [&str; 3] = ["--ol-s3", ".mrap", "--table-s3"];

/// The bounds that all servers keep, which also keep a name from changing the URL.
fn check_leniently(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || 255 < name.len() {
        return Err("a bucket name has 1 to 255 characters".to_owned());
    }
    if !name.chars().all(good) || name.chars().all(|c| c == '.') {
        return Err(
            "a bucket name consists of letters, digits, dots, hyphens and underscores".to_owned()
        );
    }
    Ok(())
}

/// `arn:PARTITION:s3:REGION:ACCOUNT:accesspoint/NAME[/PREFIX]`, without region for a multi-region
/// access point.
fn parse_arn(arn: &str) -> Result<BucketName, String> {
    const ALLOWED: &str = "an access-point ARN is written as \
                           arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME, and a prefix may follow";
    let fields: Vec<&str> = arn.splitn(6, ':').collect();
    let &[_, partition, service, region, account, resource] = &fields[..] else {
        return Err(ALLOWED.to_owned());
    };
    match service {
        "s3" => {}
        "s3-outposts" => return Err("S3 on Outposts is not supported".to_owned()),
        "s3-object-lambda" => {
            return Err("Object Lambda access points are not supported: what they answer has no \
                        fixed version or size; use the access point behind it"
                .to_owned());
        }
        _ => return Err(ALLOWED.to_owned()),
    }
    if region.is_empty() && account.is_empty() {
        return Err("a bucket is written by its name, not as an ARN".to_owned());
    }
    let place = resource
        .strip_prefix("accesspoint/")
        .or_else(|| resource.strip_prefix("accesspoint:"))
        .ok_or(ALLOWED)?;
    let (name, prefix) = split_prefix(place)?;

    let word = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let partition_is_known = partition == "aws" || partition.starts_with("aws-");
    let name_is_good = match name.strip_suffix(".mrap") {
        Some(alias) => region.is_empty() && !alias.is_empty() && word(alias),
        None => !region.is_empty() && word(region) && check_name(name).is_ok(),
    };
    let account_is_good = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    if !partition_is_known || !word(partition) || !account_is_good || !name_is_good {
        return Err(ALLOWED.to_owned());
    }
    Ok(BucketName {
        bucket: format!("arn:{partition}:s3:{region}:{account}:accesspoint/{name}"),
        prefix,
        region: (!region.is_empty()).then(|| region.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, bucket: &str, prefix: Option<&str>, region: Option<&str>) {
        let expected = BucketName {
            bucket: bucket.to_owned(),
            prefix: prefix.map(str::to_owned),
            region: region.map(str::to_owned),
        };
        assert_eq!(BucketName::parse(text, false), Ok(expected), "{text}");
    }

    #[track_caller]
    fn check_refused(text: &str, lenient: bool, part: &str) {
        let err = BucketName::parse(text, lenient).expect_err(text);
        assert!(err.contains(part), "{text}: {err}");
    }

    #[test]
    fn a_bucket_has_two_spellings_and_may_have_a_prefix() {
        for text in ["myfiles", "myfiles/", "s3://myfiles", "s3://myfiles/"] {
            check(text, "myfiles", None, None);
        }
        for text in ["myfiles/some/prefix", "s3://myfiles/some/prefix"] {
            check(text, "myfiles", Some("some/prefix"), None);
        }
        check("my.files-2/a//b/", "my.files-2", Some("a//b/"), None);
        check("s3://status", "status", None, None);
        check("ap-x7a8b9-s3alias/p", "ap-x7a8b9-s3alias", Some("p"), None);
        check("data--use1-az4--x-s3", "data--use1-az4--x-s3", None, None);
    }

    #[test]
    fn an_access_point_arn_is_a_bucket_with_a_region() {
        let arn = "arn:aws:s3:eu-west-1:123456789012:accesspoint/files";
        check(arn, arn, None, Some("eu-west-1"));
        check(&format!("{arn}/a/b"), arn, Some("a/b"), Some("eu-west-1"));
        check(&format!("s3://{arn}/"), arn, None, Some("eu-west-1"));
        check(&arn.replace("accesspoint/", "accesspoint:"), arn, None, Some("eu-west-1"));
        let china = arn.replace("aws:", "aws-cn:").replace("eu-west", "cn-north");
        check(&china, &china, None, Some("cn-north-1"));
        let multi = "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap";
        check(&format!("{multi}/p"), multi, Some("p"), None);
    }

    #[test]
    fn other_arns_are_refused_with_a_reason() {
        check_refused("arn:aws:s3:::myfiles", false, "by its name");
        check_refused("arn:aws:s3-outposts:r:123456789012:outpost/o/x", false, "Outposts");
        check_refused("arn:aws:s3-object-lambda:r:123456789012:accesspoint/x", false, "Lambda");
        for arn in [
            "arn:aws:s3",
            "arn:aws:ec2:r:123456789012:accesspoint/abc",
            "arn:aws:s3:r:12345678901:accesspoint/abc",
            "arn:aws:s3:r:123456789012:bucket/abc",
            "arn:aws:s3::123456789012:accesspoint/abc",
            "arn:aws:s3:r:123456789012:accesspoint/abc.mrap",
            "arn:oops:s3:r:123456789012:accesspoint/abc",
            "arn:aws:s3:r/x:123456789012:accesspoint/abc",
        ] {
            check_refused(arn, false, "arn:aws:s3:REGION:ACCOUNT");
        }
    }

    #[test]
    fn names_that_aws_cannot_have_are_refused() {
        check_refused("ab", false, "3 to 63");
        check_refused("", false, "3 to 63");
        check_refused("/mnt/s3", false, "the bucket comes first");
        check_refused("./mnt", true, "the bucket comes first");
        check_refused(&"a".repeat(64), false, "3 to 63");
        check_refused("MyFiles", false, "lower-case letters only, as in 'myfiles'");
        check_refused("my_files", false, "underscores");
        check_refused("my files", false, "without ' '");
        check_refused("-files", false, "begins with a letter");
        check_refused("files.", false, "ends with a letter");
        check_refused("xn--files", false, "begin with xn--");
        check_refused("sthree-files", false, "begin with sthree-");
        check_refused("amzn-s3-demo-bucket", false, "begin with amzn-s3-demo-");
        check_refused("files--ol-s3", false, "end with --ol-s3");
        check_refused("files.mrap", false, "end with .mrap");
        check_refused("my..files", false, "two dots");
        check_refused("192.168.0.1", false, "IP address");
        check_refused("https://myfiles.s3.amazonaws.com", false, "--endpoint-url");
        check_refused("myfiles//x", false, "--prefix '/x'");
    }

    #[test]
    fn other_servers_allow_more_names() {
        for name in ["My_Files", "ab", "x"] {
            assert!(BucketName::parse(name, true).is_ok(), "{name}");
        }
        for name in ["", "a b", "a?b", "a%2Fb", "ä"] {
            check_refused(name, true, "a bucket name");
        }
    }

    #[test]
    fn a_prefix_ends_in_a_slash_and_is_else_left_alone() {
        for (typed, meant) in
            [("", ""), ("a", "a/"), ("a/", "a/"), ("/a", "/a/"), ("a//b", "a//b/")]
        {
            assert_eq!(normalize_prefix(typed), Ok(meant.to_owned()), "{typed}");
        }
        assert!(normalize_prefix(&"a".repeat(1023)).is_err());
    }
}
