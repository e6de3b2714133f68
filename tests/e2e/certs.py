"""Certificates for tests, made by the `openssl` program."""
import subprocess


def run(*argv, cwd):
    subprocess.run(["openssl", *argv], cwd=cwd, check=True, capture_output=True)


def authority(folder, name):
    """NAME.pem and NAME.key; returns the certificate's path."""
    run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=" + name,
        "-days", "400", "-keyout", name + ".key", "-out", name + ".pem", cwd=folder)
    return folder / (name + ".pem")


def issue(folder, ca, name, host="IP:127.0.0.1", days=200, usage="serverAuth,clientAuth", past=False):
    """NAME.pem and NAME.key, signed by the authority; `past`: it has expired."""
    run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=" + name,
        "-keyout", name + ".key", "-out", name + ".csr", cwd=folder)
    (folder / (name + ".ext")).write_text("subjectAltName=%s\nextendedKeyUsage=%s\n" % (host, usage))
    if past:
        (folder / (ca + ".index")).write_text("")
        (folder / (ca + ".conf")).write_text(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=%s.index\nnew_certs_dir=.\nserial=%s.serial\ndefault_md=sha256\n"
            "policy=p\nrand_serial=yes\n[p]\ncommonName=supplied\n" % (ca, ca))
        run("ca", "-batch", "-config", ca + ".conf", "-in", name + ".csr", "-cert", ca + ".pem",
            "-keyfile", ca + ".key", "-startdate", "20200101000000Z", "-enddate", "20210101000000Z", "-extfile", name + ".ext", "-notext",
            "-out", name + ".pem", cwd=folder)
    else:
        run("x509", "-req", "-in", name + ".csr", "-CA", ca + ".pem", "-CAkey", ca + ".key", "-CAcreateserial",
            "-days", str(days), "-extfile", name + ".ext", "-out", name + ".pem", cwd=folder)
    return folder / (name + ".pem"), folder / (name + ".key")
