-- API keys: whom each stands for, and the digest of its secret. They are no user's: no reference to owners.
CREATE TABLE api_keys (
    key_id text COLLATE "C" PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    revoked boolean NOT NULL,
    body text NOT NULL
);

CREATE INDEX api_keys_of_tenant ON api_keys (tenant_id);
