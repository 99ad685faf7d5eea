//! Derives the region of an S3 service from the host name of its endpoint.

use std::ops::Range;

use super::S3Config;

/// The region if neither the user nor the endpoint names one. It is Amazon's first region, which services with a single
/// region accept.
pub const DEFAULT_REGION: &str = "us-east-1";

/// The longest name of a region that is accepted.
const MAX_REGION: usize = 64;

/// The placeholder of the region in a host name.
const REGION: &str = "{region}";

/// Host names of Amazon. More specific patterns come first.
const AMAZON: &[&str] = &[
    "s3.{region}.vpce.amazonaws.com",
    "s3-fips.dualstack.{region}.amazonaws.com",
    "s3-fips.{region}.amazonaws.com",
    "s3-fips-{region}.amazonaws.com",
    "s3.dualstack.{region}.amazonaws.com",
    "s3-accesspoint-fips.dualstack.{region}.amazonaws.com",
    "s3-accesspoint-fips.{region}.amazonaws.com",
    "s3-accesspoint.dualstack.{region}.amazonaws.com",
    "s3-accesspoint.{region}.amazonaws.com",
    "s3.{region}.amazonaws.com",
    "s3-{region}.amazonaws.com",
    "s3.dualstack.{region}.amazonaws.com.cn",
    "s3-accesspoint.{region}.amazonaws.com.cn",
    "s3.{region}.amazonaws.com.cn",
    "s3-{region}.amazonaws.com.cn",
    "s3.dualstack.{region}.amazonaws.eu",
    "s3.{region}.amazonaws.eu",
];

/// Host names of other services, according to their documentation.
const OTHERS: &[&str] = &[
    "s3.{region}.scw.cloud",
    "s3.{region}.backblazeb2.com",
    "s3.{region}.wasabisys.com",
    "{region}.digitaloceanspaces.com",
    "s3.{region}.io.cloud.ovh.net",
    "s3.{region}.perf.cloud.ovh.net",
    "s3.{region}.cloud.ovh.net",
    "s3.{region}.io.cloud.ovh.us",
    "{region}.linodeobjects.com",
    "{region}.vultrobjects.com",
    "{region}.your-objectstorage.com",
    "sos-{region}.exo.io",
    "s3.{region}.ionoscloud.com",
    "s3-{region}.ionoscloud.com",
    "s3.{region}.idrivee2.com",
    "cos.{region}.myqcloud.com",
    "compat.objectstorage.{region}.oraclecloud.com",
    "compat.objectstorage.{region}.oci.customer-oci.com",
    "s3.private.{region}.cloud-object-storage.appdomain.cloud",
    "s3.direct.{region}.cloud-object-storage.appdomain.cloud",
    "s3.{region}.cloud-object-storage.appdomain.cloud",
    "obs.{region}.otc.t-systems.com",
    "obs.{region}.myhuaweicloud.com",
    "oos.{region}.outscale.com",
    "s3.{region}.storage.selcloud.ru",
    "object.storage.{region}.onstackit.cloud",
    "objects-{region}.dream.io",
];

/// Amazon's endpoints without a region.
const AMAZON_GLOBAL: &[&str] = &["s3.amazonaws.com", "s3-external-1.amazonaws.com", "s3.dualstack.amazonaws.com"];

/// The region that the host name of an endpoint contains, for services that have one host name per region.
pub fn region_of_endpoint(endpoint: &str) -> Option<&str> {
    let host = host(endpoint)?;
    let found = amazon_region(host).or_else(|| OTHERS.iter().find_map(|pattern| matched(pattern, host)))?;
    host.get(found)
}

/// Whether the text can be the name of a region. A region that a server names becomes part of signatures and host
/// names.
pub fn is_region(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_REGION).contains(&text.len()) && text.bytes().all(is_part) && !text.starts_with('-')
}

/// Whether the endpoint is one of Amazon's.
pub fn is_amazon(endpoint: &str) -> bool {
    host(endpoint).is_some_and(|host| {
        [".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu"].iter().any(|suffix| ends_with(host, suffix))
    })
}

impl S3Config {
    /// The region for which requests are signed: the given region, or the endpoint's, or the default.
    pub fn region_for(given: Option<&str>, endpoint: &str) -> String {
        match given {
            Some(given) => given.to_owned(),
            None => region_of_endpoint(endpoint).unwrap_or(DEFAULT_REGION).to_ascii_lowercase(),
        }
    }

    /// Whether the bucket's name is part of the host name, by the rule of restic's `auto` bucket lookup. A certificate
    /// does not cover a bucket with a dot in its name.
    pub fn is_virtual_hosted(endpoint: &str, bucket: &str) -> bool {
        let has_such_hosts = is_amazon(endpoint)
            || host(endpoint).is_some_and(|host| {
                host.eq_ignore_ascii_case("storage.googleapis.com") || ends_with(host, ".aliyuncs.com")
            });
        has_such_hosts && !(endpoint.starts_with("https:") && bucket.contains('.'))
    }

    /// The same bucket, with the region that the service names. Amazon has an endpoint for each region, which only
    /// serves that region's buckets.
    #[must_use]
    pub fn in_region(&self, region: &str) -> Self {
        let endpoint = || {
            let host = host(&self.endpoint).filter(|_| is_amazon(&self.endpoint))?;
            let name = match amazon_region(host) {
                Some(found) => format!("{}{region}{}", host.get(..found.start)?, host.get(found.end..)?),
                None if AMAZON_GLOBAL.contains(&host) => format!("s3.{region}.amazonaws.com"),
                None => return None,
            };
            Some(self.endpoint.replacen(host, &name, 1))
        };
        Self {
            endpoint: endpoint().unwrap_or_else(|| self.endpoint.clone()),
            region: region.to_owned(),
            ..self.clone()
        }
    }
}

/// The position of Amazon's region in the host name.
fn amazon_region(host: &str) -> Option<Range<usize>> {
    let found = AMAZON.iter().find_map(|pattern| matched(pattern, host))?;
    is_amazon_region(host.get(found.clone())?).then_some(found)
}

/// Amazon's regions consist of a few letters for the partition or continent, one or more names, and a number. Other
/// labels in the same position are `dualstack` and `external-1`.
fn is_amazon_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_letters = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphabetic());
    let [first, middle @ .., last] = parts.as_slice() else { return false };
    (2..=4).contains(&first.len())
        && is_letters(first)
        && !middle.is_empty()
        && middle.iter().all(|part| is_letters(part))
        && !last.is_empty()
        && last.bytes().all(|byte| byte.is_ascii_digit())
}

/// The position of the pattern's region in the host name, which may begin with further labels, such as the bucket.
fn matched(pattern: &str, host: &str) -> Option<Range<usize>> {
    let (before, after) = pattern.split_once(REGION)?;
    let end = host.len().checked_sub(after.len()).filter(|_| ends_with(host, after))?;
    let start = host.get(..end)?.rfind('.').map_or(0, |dot| dot + 1);
    // The text before the region consists of separate labels, of the beginning of the region's label, or of nothing.
    let (labels, beginning) = before.rsplit_once('.').map_or(("", before), |(labels, rest)| (labels, rest));
    let label = host.get(start..end)?;
    let is_begun = label.get(..beginning.len()).is_some_and(|found| found.eq_ignore_ascii_case(beginning));
    let head = host.get(..start)?.trim_end_matches('.');
    let is_preceded = labels.is_empty() || head.eq_ignore_ascii_case(labels) || ends_with(head, &format!(".{labels}"));
    let found = start + beginning.len()..end;
    (is_begun && is_preceded && is_region(host.get(found.clone())?)).then_some(found)
}

fn ends_with(text: &str, suffix: &str) -> bool {
    let start = text.len().checked_sub(suffix.len());
    start.and_then(|start| text.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

/// The host name of an endpoint; none for an address in brackets.
fn host(endpoint: &str) -> Option<&str> {
    let authority = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest).split('/').next()?;
    let host = authority.split(':').next()?.trim_end_matches('.');
    (!host.is_empty() && !host.starts_with('[')).then_some(host)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn region_is_read_from_the_host_name_of_the_endpoint() {
        for (host, region) in [
            ("s3.eu-central-1.amazonaws.com", "eu-central-1"),
            ("s3-eu-west-1.amazonaws.com", "eu-west-1"),
            ("s3.dualstack.ap-south-1.amazonaws.com", "ap-south-1"),
            ("s3-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
            ("s3-fips-us-gov-west-1.amazonaws.com", "us-gov-west-1"),
            ("s3-fips.dualstack.ca-west-1.amazonaws.com", "ca-west-1"),
            ("bucket.s3.eu-central-1.amazonaws.com", "eu-central-1"),
            ("my.dotted.bucket.s3-eu-west-3.amazonaws.com", "eu-west-3"),
            ("s3.s3.eu-central-1.amazonaws.com", "eu-central-1"),
            ("name-123.s3-accesspoint.us-east-2.amazonaws.com", "us-east-2"),
            ("bucket.vpce-0a1-b2c.s3.eu-north-1.vpce.amazonaws.com", "eu-north-1"),
            ("s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            ("bucket.s3.dualstack.cn-northwest-1.amazonaws.com.cn", "cn-northwest-1"),
            ("s3.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1"),
            ("S3.EU-Central-1.AmazonAWS.com", "eu-central-1"),
            ("s3.fr-par.scw.cloud", "fr-par"),
            ("s3.us-west-004.backblazeb2.com", "us-west-004"),
            ("s3.eu-central-2.wasabisys.com", "eu-central-2"),
            ("nyc3.digitaloceanspaces.com", "nyc3"),
            ("bucket.nyc3.digitaloceanspaces.com", "nyc3"),
            ("s3.gra.io.cloud.ovh.net", "gra"),
            ("s3.de.cloud.ovh.net", "de"),
            ("eu-central-1.linodeobjects.com", "eu-central-1"),
            ("ewr1.vultrobjects.com", "ewr1"),
            ("fsn1.your-objectstorage.com", "fsn1"),
            ("sos-ch-gva-2.exo.io", "ch-gva-2"),
            ("s3-eu-central-1.ionoscloud.com", "eu-central-1"),
            ("cos.ap-guangzhou.myqcloud.com", "ap-guangzhou"),
            ("space.compat.objectstorage.us-ashburn-1.oraclecloud.com", "us-ashburn-1"),
            ("s3.eu-de.cloud-object-storage.appdomain.cloud", "eu-de"),
            ("s3.private.eu-de.cloud-object-storage.appdomain.cloud", "eu-de"),
            ("obs.eu-de.otc.t-systems.com", "eu-de"),
        ] {
            for endpoint in [format!("https://{host}"), format!("http://{host}:8080/"), format!("https://{host}./x")] {
                let found = region_of_endpoint(&endpoint).map(str::to_ascii_lowercase);
                assert_eq!(found.as_deref(), Some(region), "{endpoint}");
                assert_eq!(S3Config::region_for(None, &endpoint), region);
                assert_eq!(S3Config::region_for(Some("given"), &endpoint), "given");
            }
        }
    }

    #[test]
    fn endpoint_without_a_region_has_the_default_one() {
        for host in [
            "s3.amazonaws.com",
            "s3-external-1.amazonaws.com",
            "s3.dualstack.amazonaws.com",
            "s3-accelerate.amazonaws.com",
            "bucket.s3.amazonaws.com",
            "elb-eu-central-1.amazonaws.com",
            "s3.wasabisys.com",
            "digitaloceanspaces.com",
            "minio.backup",
            "s3.eu-central-1.amazonaws.com.example.org",
            "evils3.eu-central-1.scw.cloud",
            "notdigitaloceanspaces.com",
            "10.0.0.1",
            "[::1]",
            "",
        ] {
            let endpoint = format!("https://{host}:9000");
            assert_eq!(region_of_endpoint(&endpoint), None, "{host}");
            assert_eq!(S3Config::region_for(None, &endpoint), "us-east-1", "{host}");
        }
    }

    #[test]
    fn endpoint_of_amazon_follows_the_region_and_no_other_one_does() {
        let of = |endpoint: &str, region: &str| {
            let config = S3Config {
                endpoint: endpoint.to_owned(),
                bucket: "bucket".to_owned(),
                prefix: String::new(),
                region: "us-east-1".to_owned(),
                path_style: true,
            };
            let moved = config.in_region(region);
            assert_eq!(moved.region, region);
            moved.endpoint
        };
        for (endpoint, expected) in [
            ("https://s3.amazonaws.com", "https://s3.eu-west-1.amazonaws.com"),
            ("https://s3.us-west-2.amazonaws.com", "https://s3.eu-west-1.amazonaws.com"),
            ("https://s3-us-west-2.amazonaws.com", "https://s3-eu-west-1.amazonaws.com"),
            ("https://s3.dualstack.us-west-2.amazonaws.com", "https://s3.dualstack.eu-west-1.amazonaws.com"),
            ("https://s3.us-west-2.scw.cloud", "https://s3.us-west-2.scw.cloud"),
            ("http://minio:9000", "http://minio:9000"),
            ("https://s3-accelerate.amazonaws.com", "https://s3-accelerate.amazonaws.com"),
        ] {
            assert_eq!(of(endpoint, "eu-west-1"), expected);
        }
    }

    #[test]
    fn bucket_is_in_the_host_name_where_restic_puts_it() {
        for (endpoint, bucket, expected) in [
            ("https://s3.amazonaws.com", "bucket", true),
            ("https://s3.eu-west-1.amazonaws.com", "bucket", true),
            ("https://s3.cn-north-1.amazonaws.com.cn", "bucket", true),
            ("https://s3.amazonaws.com", "my.dotted.bucket", false),
            ("http://s3.amazonaws.com", "my.dotted.bucket", true),
            ("https://oss-cn-hangzhou.aliyuncs.com", "bucket", true),
            ("https://storage.googleapis.com", "bucket", true),
            ("https://minio.example", "bucket", false),
            ("https://s3.amazonaws.com.example.org", "bucket", false),
        ] {
            assert_eq!(S3Config::is_virtual_hosted(endpoint, bucket), expected, "{endpoint} {bucket}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,80}", host in "[a-z0-9.-]{0,40}") {
            for endpoint in [text.clone(), format!("https://{host}.amazonaws.com"), format!("https://{host}.scw.cloud")] {
                prop_assert!(region_of_endpoint(&endpoint).is_none_or(is_region));
                S3Config::is_virtual_hosted(&endpoint, &text);
            }
        }
    }
}
