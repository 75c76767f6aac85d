//! Against the examples that Amazon's documentation and the tests of Amazon's own libraries publish.

use doorward_core::{Secret, Timestamp};

use super::*;

const DATE: &str = "20130524T000000Z";
const ACCESS_KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";

fn secret() -> Secret {
    Secret::from("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
}

/// The examples of Amazon's documentation of Signature Version 4 in headers.
#[test]
fn requests_are_signed_as_in_the_documentation() {
    let secret = secret();
    let signer = Signer {
        access_key_id: ACCESS_KEY_ID,
        secret_access_key: &secret,
        region: "us-east-1",
        service: "s3",
    };
    let host = || ("host", "examplebucket.s3.amazonaws.com".to_owned());
    let body_hash = sha256_hex(b"Welcome to Amazon S3.");
    assert_eq!(body_hash, "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072");
    let headers = [
        ("date", "Fri, 24 May 2013 00:00:00 GMT".to_owned()),
        host(),
        ("x-amz-content-sha256", body_hash.clone()),
        ("x-amz-date", date(Timestamp::from_seconds(1_369_353_600))),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY".to_owned()),
    ];
    let path = format!("/{}", encoded("test$file.text", KEPT_IN_PATHS));
    let put = Request { method: "PUT", path: &path, query: "", headers: &headers, body_hash: &body_hash };
    assert_eq!(
        signer.authorization(&put, DATE),
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
         SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class,\
         Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    );
    let empty = sha256_hex(b"");
    let headers = [
        host(),
        ("range", "bytes=0-9".to_owned()),
        ("x-amz-content-sha256", empty.clone()),
        ("x-amz-date", DATE.to_owned()),
    ];
    let get = Request { method: "GET", path: "/test.txt", query: "", headers: &headers, body_hash: &empty };
    let signed = signer.authorization(&get, DATE);
    let signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
    assert!(signed.ends_with(signature), "{signed}");
    let rest: Vec<_> = headers.iter().filter(|(name, _)| *name != "range").cloned().collect();
    let list = Request { path: "/", query: "max-keys=2&prefix=J", headers: &rest, ..get };
    let signed = signer.authorization(&list, DATE);
    let signature = "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7";
    assert!(signed.ends_with(signature), "{signed}");
}

/// The example of Amazon's documentation of presigned URLs.
#[test]
fn urls_are_presigned_as_in_the_documentation() {
    let secret = secret();
    let signer = Signer {
        access_key_id: ACCESS_KEY_ID,
        secret_access_key: &secret,
        region: "us-east-1",
        service: "s3",
    };
    let presigned = Presigned {
        method: "GET",
        host: "examplebucket.s3.amazonaws.com",
        path: "/test.txt",
        query: &[],
        expires_seconds: 86_400,
        session_token: None,
        body_hash: "UNSIGNED-PAYLOAD",
    };
    assert_eq!(
        signer.presigned_query(&presigned, DATE),
        "X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
         &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
         &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    );
}

/// What the tests of botocore and of the AWS SDK for Rust say of tokens for RDS.
#[test]
fn tokens_for_databases_are_those_of_the_published_examples() {
    let check = |(secret, user, at): (&str, &str, &str), expected: &str| {
        let secret = Secret::from(secret);
        let signer = Signer {
            access_key_id: "akid",
            secret_access_key: &secret,
            region: "us-east-1",
            service: "rds-db",
        };
        let presigned = Presigned {
            method: "GET",
            host: "prod-instance.us-east-1.rds.amazonaws.com:3306",
            path: "/",
            query: &[("Action", "connect"), ("DBUser", user)],
            expires_seconds: 900,
            session_token: None,
            body_hash: &sha256_hex(b""),
        };
        assert_eq!(signer.presigned_query(&presigned, at), expected);
    };
    check(
        ("skid", "someusername", "20161107T173933Z"),
        "Action=connect&DBUser=someusername&X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=akid%2F20161107%2Fus-east-1%2Frds-db%2Faws4_request\
         &X-Amz-Date=20161107T173933Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
         &X-Amz-Signature=d1138cdbc0ca63eec012ec0fc6c2267e03642168f5884a7795320d4c18374c61",
    );
    check(
        ("secret", "peccy", "20240826T220000Z"),
        "Action=connect&DBUser=peccy&X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=akid%2F20240826%2Fus-east-1%2Frds-db%2Faws4_request\
         &X-Amz-Date=20240826T220000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
         &X-Amz-Signature=dd0cba843009474347af724090233265628ace491ea17ce3eb3da098b983ad89",
    );
}

#[test]
fn a_token_of_a_session_is_signed_in_its_place() {
    let (secret, token) = (secret(), Secret::from("a/b+c="));
    let signer =
        Signer { access_key_id: ACCESS_KEY_ID, secret_access_key: &secret, region: "r", service: "rds-db" };
    let presigned = Presigned {
        method: "GET",
        host: "h:5432",
        path: "/",
        query: &[("DBUser", "an a+b@c"), ("Action", "connect")],
        expires_seconds: 900,
        session_token: Some(&token),
        body_hash: &sha256_hex(b""),
    };
    let query = signer.presigned_query(&presigned, DATE);
    assert!(query.starts_with("Action=connect&DBUser=an%20a%2Bb%40c&X-Amz-Algorithm="), "{query}");
    assert!(query.contains("&X-Amz-Security-Token=a%2Fb%2Bc%3D&X-Amz-SignedHeaders=host&"), "{query}");
    assert!(!query.contains("wJalr"));
}
