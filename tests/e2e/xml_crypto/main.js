// A client's signatures by npm's xml-crypto. On stdin {"do": "sign" | "verify", "key": hex, "name": KeyName, "xml": text};
// on stdout the signed message, or {"holds": true | false, "signed": [canonical texts of what was signed]}.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const path = require('path');
const modules = path.join(process.argv[2], 'node_modules');
const { SignedXml } = require(path.join(modules, 'xml-crypto'));
const { DOMParser } = require(require.resolve('@xmldom/xmldom', { paths: [path.join(modules, 'xml-crypto')] }));

const C14N = 'http://www.w3.org/TR/2001/REC-xml-c14n-20010315';
const HMAC_SHA256 = 'http://www.w3.org/2001/04/xmldsig-more#hmac-sha256';
const SHA256 = 'http://www.w3.org/2001/04/xmlenc#sha256';

// It knows no HMAC with SHA-256 of its own; the key is octets.
class HmacSha256 {
  getAlgorithmName() { return HMAC_SHA256; }
  getSignature(text, key) { return crypto.createHmac('sha256', key).update(text, 'utf8').digest('base64'); }
  verifySignature(text, key, value) { return this.getSignature(text, key) === value.replace(/\s/g, ''); }
}

const ask = JSON.parse(fs.readFileSync(0, 'utf8'));
const key = Buffer.from(ask.key, 'hex');
const signer = new SignedXml({
  privateKey: key, publicCert: key, signatureAlgorithm: HMAC_SHA256, canonicalizationAlgorithm: C14N,
  getKeyInfoContent: () => `<KeyName>${ask.name}</KeyName>`,
});
signer.SignatureAlgorithms = { [HMAC_SHA256]: HmacSha256 };

if (ask.do === 'sign') {
  signer.addReference({ xpath: "/*/*[local-name(.)='KmsRequest']", digestAlgorithm: SHA256, transforms: [C14N] });
  signer.computeSignature(ask.xml, { location: { reference: '/*', action: 'append' } });
  process.stdout.write(signer.getSignedXml());
} else {
  const doc = new DOMParser().parseFromString(ask.xml, 'text/xml');
  const found = Array.from(doc.documentElement.childNodes).filter((n) => n.localName === 'Signature');
  let holds = false;
  try {
    signer.loadSignature(found[0]);
    holds = found.length === 1 && signer.checkSignature(ask.xml);
  } catch (e) {
    process.stderr.write(`${e.message}\n`);
  }
  process.stdout.write(JSON.stringify({ holds, signed: holds ? signer.getSignedReferences() : [] }));
}
