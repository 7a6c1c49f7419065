/**
 * The pods that a kubelet is given, as manifests. In: directories of the host for those that leave traces. Out: specs by name. What must become of
 * them is said by `kubelet.ts`.
 */
import { busybox, image } from '../integration/berth-host.ts';
import { shell } from './kubelet-host.ts';

/** Runs until it is asked to end, at once then. */
export const lasting = 'trap "exit 0" TERM; while :; do sleep 1 & wait $!; done';

/** Serves its files over HTTP; the applet is asked for by its whole path because the image has no links. */
const httpd = (port: number): string => `mkdir -p /tmp/www; hostname >/tmp/www/index.html; exec ${busybox} httpd -f -p ${port} -h /tmp/www`;

const emptyDir = (name: string, more: Readonly<Record<string, unknown>> = {}): Record<string, unknown> => ({ name, emptyDir: more });
const mount = (name: string, mountPath: string, more: Readonly<Record<string, unknown>> = {}): Record<string, unknown> => ({ name, mountPath, ...more });

/** Numbers and paths that the pods share with the test. */
export interface PodOptions {
  /** A directory of the host in which the pod with hooks leaves its traces. */
  readonly traces: string;
  readonly hostPort: number;
  /** A port that is free on the node, for the pod that has the node's network. */
  readonly nodePort: number;
  /** An image that only a registry has. */
  readonly pulled: string;
}

/** Every pod by its name. */
export function podSpecs({ traces, hostPort, nodePort, pulled }: PodOptions): Readonly<Record<string, Readonly<Record<string, unknown>>>> {
  return {
    plain: {
      dnsPolicy: 'Default',
      hostAliases: [{ ip: '192.0.2.77', hostnames: ['alias.example'] }],
      containers: [
        shell('main', `echo hello; echo trouble >&2; ${lasting}`, {
          env: [{ name: 'POD_IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } }],
          resources: { limits: { cpu: '200m', memory: '64Mi' } },
          volumeMounts: [mount('about', '/about')],
        }),
      ],
      volumes: [{ name: 'about', downwardAPI: { items: [{ path: 'labels', fieldRef: { fieldPath: 'metadata.labels' } }] } }],
    },
    shared: {
      shareProcessNamespace: true,
      initContainers: [
        shell('first', 'echo from first >/data/first', { volumeMounts: [mount('data', '/data')] }),
        shell('beside', `echo from beside >/data/beside; ${lasting}`, { restartPolicy: 'Always', volumeMounts: [mount('data', '/data')] }),
      ],
      containers: [
        shell('web', httpd(8080), {
          readinessProbe: { httpGet: { port: 8080 }, periodSeconds: 1 },
          startupProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1, failureThreshold: 100 },
          volumeMounts: [mount('data', '/data'), mount('memory', '/memory')],
        }),
        shell('other', lasting, { volumeMounts: [mount('data', '/other', { readOnly: true }), mount('data', '/part', { subPath: 'deep/er' })] }),
      ],
      volumes: [emptyDir('data'), emptyDir('memory', { medium: 'Memory', sizeLimit: '1Mi' })],
    },
    liveness: {
      containers: [
        shell('main', `trap "exit 0" TERM; sleep 3 & wait $!; touch /tmp/dead; ${lasting}`, {
          livenessProbe: { exec: { command: [busybox, 'test', '!', '-e', '/tmp/dead'] }, periodSeconds: 1, failureThreshold: 1 },
        }),
      ],
    },
    hostnet: { hostNetwork: true, containers: [shell('main', httpd(nodePort))] },
    // One process takes more than the limit; a shell around it would be told as the one that ended.
    hungry: {
      restartPolicy: 'Never',
      containers: [{ ...shell('main', ''), command: [busybox, 'dd', 'if=/dev/zero', 'of=/dev/null', 'bs=256M'], resources: { limits: { memory: '32Mi' } } }],
    },
    messages: {
      restartPolicy: 'Never',
      containers: [
        shell('file', 'printf "the reason" >/dev/termination-log; exit 3'),
        shell('log', 'echo last words; exit 4', { terminationMessagePolicy: 'FallbackToLogsOnError' }),
      ],
    },
    again: {
      restartPolicy: 'OnFailure',
      containers: [shell('main', 'test -e /data/tried || { touch /data/tried; exit 1; }', { volumeMounts: [mount('data', '/data')] })],
      volumes: [emptyDir('data')],
    },
    hooks: {
      containers: [
        shell('main', 'trap "echo asked >>/traces/order; exit 0" TERM; while :; do sleep 1 & wait $!; done', {
          lifecycle: {
            postStart: { exec: { command: [busybox, 'sh', '-c', 'echo started >>/traces/order'] } },
            preStop: { exec: { command: [busybox, 'sh', '-c', 'echo stopping >>/traces/order'] } },
          },
          volumeMounts: [mount('traces', '/traces')],
        }),
      ],
      volumes: [{ name: 'traces', hostPath: { path: traces, type: 'Directory' } }],
    },
    ports: { containers: [shell('main', httpd(8080), { ports: [{ containerPort: 8080, hostPort }] })] },
    secure: {
      securityContext: {
        runAsUser: 1234,
        runAsGroup: 2345,
        fsGroup: 3456,
        supplementalGroups: [4567],
        runAsNonRoot: true,
        seccompProfile: { type: 'RuntimeDefault' },
        sysctls: [{ name: 'net.ipv4.ip_unprivileged_port_start', value: '80' }],
      },
      containers: [
        shell('main', lasting, {
          securityContext: { readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } },
          volumeMounts: [mount('data', '/data')],
        }),
      ],
      volumes: [emptyDir('data')],
    },
    userns: { hostUsers: false, containers: [shell('main', `echo mine >/data/mine; ${lasting}`, { volumeMounts: [mount('data', '/data')] })], volumes: [emptyDir('data')] },
    privileged: {
      hostPID: true,
      hostIPC: true,
      containers: [shell('main', lasting, { securityContext: { privileged: true }, volumeMounts: [mount('traces', '/traces', { mountPropagation: 'Bidirectional' })] })],
      volumes: [{ name: 'traces', hostPath: { path: traces } }],
    },
    // More than a rotation's worth, and slowly enough that there are some.
    chatty: { containers: [shell('main', `i=0; while :; do i=$((i+1)); echo "line $i ${'x'.repeat(100)}"; [ $((i % 50)) -ne 0 ] || sleep 1; done`)] },
    imagevolume: {
      containers: [shell('main', lasting, { volumeMounts: [mount('image', '/image')] })],
      volumes: [{ name: 'image', image: { reference: image, pullPolicy: 'Never' } }],
    },
    pulled: { containers: [{ ...shell('main', lasting), image: pulled, imagePullPolicy: 'IfNotPresent' }] },
    absent: { containers: [{ ...shell('main', ''), image: 'localhost/absent:latest' }] },
    wrong: { containers: [{ ...shell('main', ''), command: ['/no/such/program'] }] },
  };
}
