import { execFileSync } from 'node:child_process';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { NamespaceMode, RuntimeService } from '#gen/cri-v1_pb.js';
import { busybox } from './berth-host.ts';
import { CriHost } from './cri-host.ts';
import { SpdyClient } from './stream-clients.ts';
test('debug the thing', async () => {
  await using host = await CriHost.open();
  const server = createServer({ allowHalfOpen: true }, (s) => { s.on('error', () => undefined).pipe(s); });
  await new Promise<void>((r) => void server.listen(0, '127.0.0.1', r));
  const port = String((server.address() as any).port);
  const pod = await host.startContainer(`${busybox} sleep 100000`, { pod: { linux: { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } } } });
  for (let round = 0; round < 12; round += 1) {
    const { url } = await host.call(RuntimeService.method.portForward, { podSandboxId: pod.podSandboxId });
    const client = await SpdyClient.open(url, ['portforward.k8s.io']);
    const pairs = Array.from({ length: 202 }, (_, index) => ({
      error: client.stream({ streamtype: 'error', port, requestid: String(index) }),
      data: client.stream({ streamtype: 'data', port, requestid: String(index) }),
    }));
    for (const { data } of pairs) client.write(data, 'hello');
    const t = performance.now();
    while (performance.now() - t < 6000 && !pairs.every(({ data, error }) => data.text === 'hello' || error.isEnded)) await sleep(20);
    const stuck = pairs.filter(({ data, error }) => data.text !== 'hello' && !error.isEnded);
    console.log(round, 'ms', Math.round(performance.now() - t), 'stuck', stuck.length, 'refused', pairs.filter(({ error }) => error.isEnded).length, JSON.stringify(stuck.slice(0, 2)), pairs.filter(({ error }) => error.isEnded).slice(0, 1).map(({ error }) => error.text).join(), client.isClosed);
    if (stuck.length > 0) {
      console.log(execFileSync('sh', ['-c', `ss -tn | grep ${port} | wc -l; ss -tln; for p in /proc/[0-9]*; do grep -q berth-shim $p/comm 2>/dev/null && echo $p $(cat $p/wchan) $(grep ^Uid $p/status|cut -c1-12) $(grep Seccomp: $p/status) ; done | awk '{print $2,$3,$4,$5,$6,$7}' | sort | uniq -c`], { encoding: 'utf8' }));
      await sleep(500);
      client.socket.destroy();
      break;
    }
    client.socket.destroy();
    await sleep(300);
  }
  server.closeAllConnections?.();
  server.close();
});
