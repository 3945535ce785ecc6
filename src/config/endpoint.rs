//! The address of an S3 server that is not AWS.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Whether the bucket can only stand in the path: no name goes before an IP address, and
/// `bucket.localhost` does not resolve everywhere.
pub fn needs_path_style(endpoint_url: &str) -> bool {
    parse_host(endpoint_url).is_ok_and(|host| {
        host == "localhost" || host.parse::<Ipv4Addr>().is_ok() || host.starts_with('[')
    })
}

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
    fn an_address_or_localhost_needs_path_style() {
        for (url, needs) in [
            ("http://127.0.0.1:9000", true),
            ("http://localhost", true),
            ("http://LOCALHOST:1/", true),
            ("https://[::1]:9000", true),
            ("https://s3.example.com", false),
            ("http://minio:9000", false),
            ("http://x.localhost:1", false),
        ] {
            assert!(parse_host(url).is_ok(), "{url}");
            assert_eq!(needs_path_style(url), needs, "{url}");
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
