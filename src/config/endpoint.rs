//! The address of an S3 server that is not AWS.

use std::net::Ipv6Addr;

/// Whether the bucket goes into the path rather than before the host name: everywhere but on AWS, as
/// the AWS command line does. Most other servers have a host name for each bucket only after
/// somebody has set that up, in them and in the DNS.
pub fn takes_path_style(endpoint_url: &str) -> bool {
    parse_host(endpoint_url).is_ok_and(|host| {
        !AWS_DOMAINS.iter().any(|domain| {
            host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    })
}

/// The domains of AWS, in all its partitions.
const AWS_DOMAINS: [&str; 3] = ["amazonaws.com", "amazonaws.com.cn", "api.aws"];

/// Checks `http://HOST[:PORT][/PATH]` and gives the host.
pub fn parse_host(endpoint_url: &str) -> Result<String, String> {
    const ALLOWED: &str = "an endpoint is written as http://HOST:PORT or https://HOST";
    let rest = endpoint_url
        .strip_prefix("https://")
        .or_else(|| endpoint_url.strip_prefix("http://"))
        .ok_or(ALLOWED)?;
    let authority = rest.split('/').next().unwrap_or_default();
    if rest.contains(['?', '#']) || rest.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(ALLOWED.to_owned());
    }
    if authority.contains('@') {
        return Err(format!("{ALLOWED}; credentials have no place in it"));
    }
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if address.parse::<Ipv6Addr>().is_ok() => {
            (format!("[{address}]"), port)
        }
        Some(_) => return Err(ALLOWED.to_owned()),
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            (authority[..end].to_ascii_lowercase(), &authority[end..])
        }
    };
    let port_is_good = match port.strip_prefix(':') {
        Some(number) => number.parse::<u16>().is_ok_and(|number| number != 0),
        None => port.is_empty(),
    };
    if host.is_empty() || !port_is_good {
        return Err(ALLOWED.to_owned());
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_goes_into_the_path_but_on_aws() {
        for (url, path) in [
            ("http://127.0.0.1:9000", true),
            ("http://LOCALHOST:1/", true),
            ("https://[::1]:9000", true),
            ("https://s3.example.com", true),
            ("http://minio:9000", true),
            ("https://notamazonaws.com", true),
            ("https://s3.eu-west-1.amazonaws.com", false),
            ("https://S3.cn-north-1.amazonaws.com.cn:443", false),
            ("https://bucket.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com", false),
        ] {
            assert!(parse_host(url).is_ok(), "{url}");
            assert_eq!(takes_path_style(url), path, "{url}");
        }
    }

    #[test]
    fn what_is_no_address_of_a_server_is_refused() {
        for url in [
            "localhost:9000",
            "ftp://h",
            "http://",
            "http://:9000",
            "http://h:",
            "http://h:0",
            "http://h:99999",
            "http://h:80?x",
            "http://h h",
            "http://[::g]",
            "http://user:secret@h",
        ] {
            assert!(parse_host(url).is_err(), "{url}");
        }
    }
}
