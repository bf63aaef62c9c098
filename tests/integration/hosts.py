"""Hosts as namespaces: each has a network stack and a name of its own, and a cable to one switch. Root and iproute2."""
import os
import shutil
import subprocess

NET = "10.77.0"


def lacking():
    """Why there can be none; None where there can."""
    if os.geteuid() != 0:
        return "hosts as namespaces want root"
    for program in ("ip", "unshare", "tc"):
        if shutil.which(program) is None:
            return f"no {program} here"
    probe = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, check=False)
    return None if probe.returncode == 0 else "no namespaces here: " + probe.stderr.decode(errors="replace").strip()


def ip(*args):
    subprocess.run(["ip", *args], check=True, capture_output=True)


class Hosts:
    """Hosts of these names, 10.77.0.1 and so on; a context. `env`: for an mpirun that is to find them."""

    def __init__(self, work, *names):
        self.prefix = f"airlock{os.getpid()}"
        self.names = names
        self.agent_path = os.path.join(work, "rsh-agent")
        with open(self.agent_path, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n# As ssh: HOST COMMAND.\nhost=$1\nshift\n"
                       f'exec ip netns exec "{self.prefix}-$host" unshare --uts sh -c "hostname $host; $*"\n')
        os.chmod(self.agent_path, 0o700)
        self.env = {"OMPI_MCA_plm_rsh_agent": self.agent_path, "OMPI_MCA_btl_tcp_if_include": f"{NET}.0/24",
                    "OMPI_MCA_oob_tcp_if_include": f"{NET}.0/24"}

    def __enter__(self):
        try:
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def build(self):
        switch = self.netns("switch")
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "switch", "type", "bridge")
        ip("-n", switch, "link", "set", "switch", "up")
        for number, host in enumerate(self.names, start=1):
            name = self.netns(host)
            os.makedirs(f"/etc/netns/{name}")  # what `ip netns exec` shows as /etc
            with open(f"/etc/netns/{name}/hosts", "w", encoding="utf-8") as file:
                file.write("127.0.0.1 localhost\n")
                file.writelines(f"{NET}.{i} {other}\n" for i, other in enumerate(self.names, start=1))
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", switch, "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", switch, "link", "set", f"port{number}", "master", "switch", "up")
            ip("-n", name, "address", "add", f"{NET}.{number}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")

    def __exit__(self, *_):
        for host in ("switch", *self.names):
            subprocess.run(["ip", "netns", "delete", self.netns(host)], check=False, capture_output=True)
            shutil.rmtree(f"/etc/netns/{self.netns(host)}", ignore_errors=True)

    def netns(self, host):
        return f"{self.prefix}-{host}"

    def on(self, host):
        """What a command is put behind to run there."""
        return ("ip", "netns", "exec", self.netns(host), "unshare", "--uts", "sh", "-c", f'hostname {host}; exec "$@"', "sh")

    def mpirun(self, *args):
        """On the first host, a rank a host."""
        return (*self.on(self.names[0]), "mpirun", "--host", ",".join(self.names), "--bind-to", "none", "--mca", "pml", "ob1",
                "--mca", "btl", "self,tcp", *args)

    def cut(self, host):
        """Pulls its cable at the switch: nobody is told."""
        ip("-n", self.netns("switch"), "link", "set", f"port{self.names.index(host) + 1}", "down")

    def slow(self, rate):
        """Every cable carries no more: "10gbit"."""
        for host in self.names:
            subprocess.run(["ip", "netns", "exec", self.netns(host), "tc", "qdisc", "replace", "dev", "eth0", "root",
                            "tbf", "rate", rate, "burst", "1mb", "latency", "50ms"], check=True, capture_output=True)
