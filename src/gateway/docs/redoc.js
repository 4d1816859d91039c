// Starts ReDoc on this gateway's own description.
'use strict';
Redoc.init('openapi.json', { hideHostname: true, theme: { typography: { fontFamily: 'system-ui, sans-serif', headings: { fontFamily: 'system-ui, sans-serif' } } } }, document.getElementById('api'));
