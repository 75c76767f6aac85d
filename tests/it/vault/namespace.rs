//! A namespace of the secret store: what the gateway is to find in one, it does not look for elsewhere.

use super::*;

const NAMESPACE: &str = "team";
const ROLE_PASSWORD: &str = "s3cret-of-the-namespace";

/// A namespace with the password of the role, and an AppRole that may read it. Its ids.
fn namespace(vault: &VaultServer) -> Result<(String, String)> {
    let write = |path: &str, body: Value| vault.write(&format!("{NAMESPACE}/{path}"), &body);
    vault.write(&format!("sys/namespaces/{NAMESPACE}"), &json!({}))?;
    write("sys/mounts/secret", json!({ "type": "kv", "options": { "version": "2" } }))?;
    // The engine makes itself ready behind the answer.
    let secret = json!({ "data": { "reader": ROLE_PASSWORD } });
    ensure!(wait_until(SOON, || write("secret/data/shop", secret.clone()).is_ok()));
    let policy = "path \"secret/data/*\" { capabilities = [\"read\"] }";
    write("sys/policies/acl/gateway", json!({ "policy": policy }))?;
    write("sys/auth/approle", json!({ "type": "approle" }))?;
    write("auth/approle/role/gateway", json!({ "token_policies": "gateway", "token_ttl": "1h" }))?;
    let role = format!("{NAMESPACE}/auth/approle/role/gateway");
    let role_id = vault.ask("GET", &format!("{role}/role-id"), None)?;
    let secret_id = vault.write(&format!("{role}/secret-id"), &json!({}))?;
    let text = |answer: &Value, key: &str| answer["data"][key].as_str().map(str::to_owned).context("an id");
    Ok((text(&role_id, "role_id")?, text(&secret_id, "secret_id")?))
}

#[test]
fn vault_secrets_of_a_namespace() -> Result<()> {
    let bed = Bed::without_vault(Cluster::shared()?, "vn", VaultServer::start()?)?;
    {
        let _turn = roles_turn();
        bed.database
            .cluster()
            .ensure_role(&bed.role, &format!("login noinherit password '{ROLE_PASSWORD}'"))?;
    }
    // The same path outside of the namespace holds another password.
    bed.vault.write("secret/data/shop", &json!({ "data": { "reader": "of the root" } }))?;
    let approle = namespace(&bed.vault)?;
    let roles = format!("{{ {}: {{ password: \"vault:secret/shop#reader\" }} }}", bed.role);
    let within = bed.config(&roles, APPROLE, &format!("  namespace: {NAMESPACE}\n"));
    let mut gateway = bed.gateway(&within, &approle)?;
    let (out, err) = bed.psql(&gateway, "select current_user, count(*) from orders group by 1;")?;
    ensure!(out == format!("{}|20", bed.role) && err.is_empty(), "{out}{err}\n{}", gateway.log());
    ensure!(gateway.term()?.success());
    ensure!(!gateway.log().contains(ROLE_PASSWORD) && !gateway.log().contains(&approle.1));
    // Its ids are good for nothing elsewhere, and the operator is told.
    for (namespace, told) in
        [("", "lease.source-refused"), ("  namespace: nowhere\n", "lease.source-refused")]
    {
        let gateway = bed.gateway(&bed.config(&roles, APPROLE, namespace), &approle)?;
        let (out, err) = bed.psql(&gateway, "select 1;")?;
        ensure!(out.is_empty() && err.contains(told), "{namespace}: {out}{err}\n{}", gateway.log());
    }
    Ok(())
}
