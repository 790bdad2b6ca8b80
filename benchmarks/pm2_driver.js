// The client of pm2: starts the daemon, carries out the commands on standard input, tells exits.
// usage: node pm2_driver.js PM2_MODULE APPS_JSON
'use strict';
const fs = require('fs');
const readline = require('readline');
const pm2 = require(process.argv[2]);
const apps = JSON.parse(fs.readFileSync(process.argv[3]));

const say = (line) => process.stdout.write(line + '\n');
const fail = (error) => { say('error ' + (error.message || error)); process.exit(1); };
let known = false;

function start(done) {
  if (known) return pm2.restart('all', done);
  known = true;
  return pm2.start({ apps }, done);
}

function carryOut(command) {
  const done = (error) => (error ? fail(error) : say('done ' + command));
  if (command === 'start') start(done);
  else if (command === 'stop') pm2.stop('all', done);
  else if (command === 'list') pm2.list(done);
  else if (command === 'end') pm2.killDaemon(() => process.exit(0));
}

pm2.connect((error) => {
  if (error) fail(error);
  pm2.launchBus((failure, bus) => {
    if (failure) fail(failure);
    bus.on('process:event', (data) => {
      if (data.event === 'exit') say('exit ' + data.process.name);
    });
    readline.createInterface({ input: process.stdin }).on('line', carryOut);
    say('ready');
  });
});
