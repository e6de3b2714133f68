-- Once, into an empty server: the database, and the roles of docker/README.md, "Keys in PostgreSQL".
\set operator `cat /run/fleet/operator.password`
\set gateway `cat /run/fleet/gateway.password`
CREATE DATABASE kms ENCODING 'UTF8' TEMPLATE template0;
\connect kms
CREATE ROLE kms_operator LOGIN;
CREATE ROLE kms_gateway LOGIN;
CREATE ROLE kms_reader LOGIN;
CREATE SCHEMA kmsgate AUTHORIZATION kms_operator;
GRANT USAGE ON SCHEMA kmsgate TO kms_gateway, kms_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE kms_operator IN SCHEMA kmsgate GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO kms_gateway;
ALTER DEFAULT PRIVILEGES FOR ROLE kms_operator IN SCHEMA kmsgate GRANT SELECT ON TABLES TO kms_reader;
ALTER ROLE kms_operator PASSWORD :'operator';
ALTER ROLE kms_gateway PASSWORD :'gateway';
