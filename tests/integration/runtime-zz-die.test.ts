import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { it } from 'node:test';
import { defaultApparmorProfile } from '#runtime';
import { makeSpec, startRuntimeHost } from './runtime-host.ts';
it('dies', async () => {
  await using environment = await startRuntimeHost('/var/tmp');
  const profiles = `profile zz-all flags=(attach_disconnected) { file, signal, network, capability, ptrace, unix, mount, }\nprofile zz-rx flags=(attach_disconnected) { file, signal (receive), network, }\n`;
  for (const text of [profiles, defaultApparmorProfile.text]) execFileSync('apparmor_parser', ['--replace', '--skip-cache'], { input: text });
  for (const apparmorProfile of ['', 'zz-all', 'zz-rx', 'berth-default']) {
    const pod = await environment.makePod({ namespaces: { net: false, ipc: false, uts: false } });
    const { pid } = await pod.start('long', makeSpec(environment.host, { args: ['/bin/sleep', '600'], process: { apparmorProfile } }));
    const label = readFileSync(`/proc/${pid}/attr/current`, 'utf8').trim();
    const shim = pod.shim.pid;
    process.kill(shim, 'SIGKILL');
    let dead = false;
    for (let i = 0; i < 40 && !dead; i += 1) {
      try { process.kill(pid, 0); await sleep(500); } catch { dead = true; }
    }
    console.log(`RESULT ${apparmorProfile} ${label} shim ${readFileSync('/proc/self/attr/current', 'utf8').trim()} dead=${dead}`);
    if (!dead) { console.log(readFileSync(`/proc/${pid}/status`, 'utf8').split('\n').slice(0, 8).join(' ')); process.kill(pid, 'SIGKILL'); }
  }
  console.log(execFileSync('dmesg', { encoding: 'utf8' }).split('\n').filter((l) => /apparmor|audit/.test(l)).slice(-20).join('\n'));
});
